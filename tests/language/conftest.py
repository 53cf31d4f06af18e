"""A language model with trained exits, which the tests share. Imports are late: without PyTorch all is skipped."""

import pytest


@pytest.fixture(scope="session")
def asked(tmp_path_factory):
    """What is asked for: a job on a decoder whose later layers change little."""
    from exeunt.torch.language.training import LanguageJob
    from tiny_decoders import saved

    model, data = saved(tmp_path_factory.mktemp("decoder"), alike=True)
    return LanguageJob(
        model=model, data=data, exits=2, most_tokens=10, head={"hidden": 32}, calibrate=80, batch_size=32,
        recipe={"epochs": 8, "learning_rate": 1e-3},
    )  # fmt: skip


@pytest.fixture(scope="session")
def run(asked, tmp_path_factory):
    from exeunt.torch.language.training import train_language_model

    out = tmp_path_factory.mktemp("runs") / "lm"
    return train_language_model(asked, out, command="exeunt train", say=lambda _: None, progress=False)
