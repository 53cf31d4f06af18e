"""Networks of texts answer alike however they are padded, staged, whole or exported, at every length that they take."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx_stages import check_logits

import exeunt as ex
from exeunt._support.sealed_json import write_sealed
from exeunt.engine.engine import Engine
from exeunt.onnx.executor import OnnxExecutor
from exeunt.onnx.manifest import OnnxManifest
from exeunt.onnx.quantisation import quantise_export
from exeunt.torch import attach, record
from exeunt.torch.executor import StagedExecutor, WholeExecutor
from exeunt.torch.to_onnx import export_network

pytest.importorskip("onnxscript")


N, LONGEST = 60, 16
PADDING = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}


def batch(rows, length):
    """Texts of word numbers, padded to one length."""
    ids = np.array([np.pad(row, (0, length - len(row))) for row in rows])
    mask = np.array([np.arange(length) < len(row) for row in rows]).astype(np.int64)
    return dict(zip(PADDING, map(torch.from_numpy, (ids, mask, np.zeros_like(ids))), strict=True))


@cache
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(4, 50, length) for length in rng.integers(1, LONGEST + 1, N)]


def some(n, length=9):
    """The first so many texts, cut or padded to this length."""
    return batch([row[:length] for row in texts()[:n]], length)


@cache
def network():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=50,
        num_labels=3, max_position_embeddings=LONGEST,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    return attach(model, some(2, LONGEST), 1, head="statistics", verbose=False).eval()


@cache
def policy():
    labels = torch.arange(N) % 3
    one_by_one = [(batch([row], len(row)), labels[i : i + 1]) for i, row in enumerate(texts())]
    fit, held_out, _ = record(network(), one_by_one).split(fit=0.3, calibrate=0.3, test=0.4)
    return ex.eero(fit, held_out, budget="70%", delta=None)


def check_batching(executor):
    """Check that batching changes no answer."""
    together = Engine(executor, policy()).answer(batch(texts(), LONGEST))
    assert len(set(together.exit.tolist())) > 1
    sure = 0
    for i, row in enumerate(texts()):
        alone = Engine(executor, policy()).answer(batch([row], len(row)))
        assert alone.confidence[0] == pytest.approx(together.confidence[i], abs=1e-4) or alone.borderline[0]
        if not (alone.borderline[0] or together.borderline[i]):
            assert (alone.label[0], alone.exit[0]) == (together.label[i], together.exit[i])
            sure += 1
    assert sure > 0.5 * N


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of the network."""
    made = tmp_path_factory.mktemp("bert")
    export_network(network(), some(2), made, padding=PADDING, say=silent)
    return made


@pytest.fixture(scope="module")
def staged():
    return StagedExecutor(network(), some(2, LONGEST))


@pytest.fixture(params=["staged", "whole", "onnx"])
def executor(request):
    if request.param == "whole":
        return WholeExecutor(network(), some(2, LONGEST))
    if request.param == "staged":
        return request.getfixturevalue("staged")
    return OnnxExecutor(request.getfixturevalue("folder"), threads=1)


def test_a_text_alone_is_answered_as_among_long_ones_and_longer_ones_are_refused(executor):
    check_batching(executor)
    said = f"{LONGEST + 1} tokens and the network takes {LONGEST}: truncate"
    with pytest.raises(ex.InputError, match=said):
        Engine(executor, policy()).answer(batch(texts()[:2], LONGEST + 1))


@pytest.mark.parametrize("optimised", [True, False])
@pytest.mark.parametrize(("segments", "n", "lengths"), [(None, 4, (3, 8, 9, LONGEST)), (((0, 1),), 6, (9,))])
def test_texts_of_every_length_that_the_network_takes_are_answered(folder, segments, n, lengths, optimised):
    executor = OnnxExecutor(folder, segments=segments, threads=1, optimised=optimised)
    assert executor.cut.optimised is optimised
    for length in lengths:
        check_logits(executor, network(), some(n, length))


def test_texts_that_are_incomplete_or_no_whole_numbers_are_refused(folder):
    executor = OnnxExecutor(folder, threads=1)
    whole = {name: tensor.numpy() for name, tensor in some(4).items()}
    spoilt = np.where(whole["attention_mask"] == 0, np.nan, 1.0)
    for inputs, said in (
        ({name: x for name, x in whole.items() if name != "attention_mask"}, "missing: attention_mask"),
        (whole | {"attention_mask": spoilt}, "attention_mask must be whole numbers .int64., got float64"),
    ):
        with pytest.raises(ex.InputError, match=said):
            executor.start(inputs)


def test_int8_has_no_range_that_all_tokens_share(folder, tmp_path, caplog):
    quantise_export(folder, tmp_path, [])
    assert not caplog.records
    layers = [node.op_type for node in onnx.load(tmp_path / "stage-01.onnx").graph.node]
    assert "MatMulNBits" in layers
    assert "QuantizeLinear" not in layers
    executor = OnnxExecutor(tmp_path, threads=1)
    check_logits(executor, network(), some(6), atol=1e-4)
    check_batching(executor)


def test_an_export_of_an_old_format_is_refused(folder, tmp_path):
    """Format 1 had one length of texts."""
    body = asdict(OnnxManifest.load(folder))
    write_sealed(tmp_path / "manifest.json", "export", body, format_="exeunt-onnx", version=1)
    with pytest.raises(ex.errors.ArtefactError, match="old format 1, not of 2: export it again"):
        OnnxExecutor(tmp_path, threads=1)


def test_a_length_that_the_weights_fix_cannot_be_exported(tmp_path):
    from test_cut import MixesTokens, tokens

    network = attach(MixesTokens().eval(), tokens(2), ["blocks.0"], head="mean", verbose=False).eval()
    with pytest.raises(ex.InputError, match=r"makes the length of texts a constant.*--executor eager"):
        export_network(network, tokens(2), tmp_path, say=silent)


def without_types(n):
    return {name: tensor for name, tensor in some(n).items() if name != "token_type_ids"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta", "modernbert", "deberta"])
def test_text_networks_of_hugging_face(tmp_path, name):
    from test_cut import ZOO

    torch.manual_seed(0)
    inputs = without_types(5)
    network = attach(ZOO[name][0]().eval(), inputs, 2, head="mean", verbose=False).eval()
    pad = network.backbone.config.pad_token_id
    export_network(network, inputs, tmp_path, padding={"input_ids": pad, "attention_mask": 0}, say=silent)
    executor = OnnxExecutor(tmp_path, threads=1)
    assert executor.cut.optimised
    for length in (3, 30):
        longer = {name: tensor[:, torch.arange(length) % 9] for name, tensor in inputs.items()}
        check_logits(executor, network, longer, atol=1e-4)


def test_one_cut_serves_every_length(staged):
    first = staged.start(batch(texts()[:2], LONGEST))[0]
    second = staged.start(batch([texts()[0][:3]], 3))[0]
    assert second.staged is first.staged
    assert staged.signature(first) != staged.signature(second)  # rows are joined with those as long
