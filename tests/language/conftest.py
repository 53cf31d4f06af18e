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
        recipe={"mode": "frozen", "epochs": 8, "learning_rate": 1e-3},
    )  # fmt: skip


@pytest.fixture(scope="session")
def run(asked, tmp_path_factory):
    """The job done by the command. `said.txt` beside the run holds what it printed."""
    from cli.command import exeunt
    from exeunt.runs.folder import RunFolder

    work = tmp_path_factory.mktemp("runs")
    options = "--exits 2 --most-tokens 10 --hidden 32 --calibrate 80 --batch-size 32 --epochs 8 --learning-rate 1e-3"
    command = ["train", "--task", "generate", "--model", asked.model, "--data", asked.data, *options.split()]
    done = exeunt(*command, "--out", "lm", cwd=work)
    (work / "said.txt").write_text(done.stdout)
    return RunFolder.open(work / "lm")


@pytest.fixture(scope="session")
def model(run):
    """The run, opened once: for tests that change nothing of it."""
    from exeunt.torch.language import LanguageModel

    return LanguageModel.open(run.path)
