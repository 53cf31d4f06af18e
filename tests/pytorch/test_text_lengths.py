"""An answer does not depend on how far a text was padded: alone, or among longer ones."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")

import exeunt as ex  # noqa: E402
from exeunt._sealed import write_sealed  # noqa: E402
from exeunt.engine.flow import answer_batch  # noqa: E402
from exeunt.onnx.executor import OnnxExecutor  # noqa: E402
from exeunt.torch import attach, record  # noqa: E402
from exeunt.torch.executor import StagedExecutor, WholeExecutor  # noqa: E402
from exeunt.torch.export.to_onnx import export_network  # noqa: E402

N, LONGEST = 60, 40


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(4, 50, length) for length in rng.integers(1, LONGEST + 1, N)]


def batch(rows, length):
    ids = np.array([np.pad(row, (0, length - len(row))) for row in rows])
    mask = np.array([np.arange(length) < len(row) for row in rows]).astype(np.int64)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


@pytest.fixture(scope="module")
def network(texts):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, vocab_size=50,
        num_labels=3, max_position_embeddings=LONGEST,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    return attach(model, batch(texts[:2], LONGEST), 2, head="mean", verbose=False).eval()


@pytest.fixture(scope="module")
def policy(network, texts):
    labels = torch.arange(N) % 3
    trace = record(network, [(batch([text], len(text)), labels[i : i + 1]) for i, text in enumerate(texts)])
    fit, held_out, _ = trace.split(fit=0.3, calibrate=0.3, test=0.4)
    return ex.eero(fit, held_out, budget="70%", delta=None)


@pytest.fixture(scope="module", params=["staged", "whole", "onnx"])
def executor(request, network, texts, tmp_path_factory):
    if request.param == "staged":
        return StagedExecutor(network, batch(texts[:2], LONGEST))
    if request.param == "whole":
        return WholeExecutor(network, batch(texts[:2], LONGEST))
    folder = tmp_path_factory.mktemp("exported")
    padding = {"input_ids": 0, "attention_mask": 0}
    export_network(network, batch(texts[:2], LONGEST), folder, padding=padding, say=lambda _: None)
    return OnnxExecutor(folder, threads=1)


def test_a_text_alone_is_answered_as_among_long_ones(executor, policy, texts):
    together = answer_batch(executor, policy, batch(texts, LONGEST))
    assert len(set(together.exit.tolist())) > 1
    sure = 0
    for i, text in enumerate(texts):
        alone = answer_batch(executor, policy, batch([text], len(text)))
        assert alone.confidence[0] == pytest.approx(together.confidence[i], abs=1e-4) or alone.borderline[0]
        if not (alone.borderline[0] or together.borderline[i]):
            assert (alone.label[0], alone.exit[0]) == (together.label[i], together.exit[i])
            sure += 1
    assert sure > 0.5 * N


def test_texts_longer_than_the_network_takes_are_refused(executor, policy, texts):
    with pytest.raises(
        ex.InputError, match=f"{LONGEST + 1} tokens and the network takes {LONGEST}: truncate"
    ):
        answer_batch(executor, policy, batch(texts[:2], LONGEST + 1))


def test_an_export_of_one_length_pads_shorter_texts_and_refuses_longer_ones(network, policy, texts, tmp_path):
    """Earlier versions wrote such: format 1, with the length in the shapes."""
    folder, length = tmp_path, LONGEST // 2
    padding = {"input_ids": 0, "attention_mask": 0}
    made = export_network(network, batch(texts[:2], LONGEST), folder, padding=padding, say=lambda _: None)
    tensors = {
        name: replace(tensor, shape=(None, length)) if name in made.inputs else tensor
        for name, tensor in made.tensors.items()
    }
    body = {
        name: value
        for name, value in asdict(replace(made, tensors=tensors)).items()
        if name != "longest_text"
    }
    write_sealed(folder / "manifest.json", "export", body, format_="exeunt-onnx", version=1)
    old, now = OnnxExecutor(folder, threads=1), WholeExecutor(network, batch(texts[:2], LONGEST))
    short = batch([text[:5] for text in texts[:8]], 5)
    expected = answer_batch(now, policy, short)
    np.testing.assert_allclose(answer_batch(old, policy, short).confidence, expected.confidence, atol=1e-4)
    with pytest.raises(
        ex.InputError, match=f"for texts of {length} tokens, got {length + 1}: export it again"
    ):
        answer_batch(old, policy, batch([np.full(length + 1, 5)] * 2, length + 1))


def test_one_cut_serves_every_length(network, texts):
    executor = StagedExecutor(network, batch(texts[:2], LONGEST))
    first = executor.start(batch(texts[:2], LONGEST))[0]
    second = executor.start(batch([texts[0][:3]], 3))[0]
    assert second.staged is first.staged
    assert executor.signature(first) != executor.signature(second)  # rows are joined with those as long
