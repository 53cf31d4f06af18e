"""Executors for the contract suite, each with inputs and what was recorded of them.

A further executor is one more function in `CASES`.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.cascade_executor import CascadeExecutor, CascadeModel
from exeunt.engine.executor import SelectedExits
from exeunt.engine.plan import segments_between
from exeunt.runs.streaming import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

N, M, K = 240, 5, 4


@dataclass
class Case:
    """An executor, inputs by row numbers (of two sizes), and the traces of these.

    `spoil`: puts a NaN into a row; None where inputs are whole numbers.
    """

    executor: Callable[..., Any]
    inputs: Callable[[Any], Any]
    larger: Callable[[Any], Any]
    spoil: Callable[[Any, int], Any] | None
    trace: ex.ExitTrace
    larger_trace: ex.ExitTrace


def keyed(case, batches):
    """Return a stream's batches, with their keys."""
    return [Batch(case.inputs(rows), rows) for rows in batches]


def kept(make):
    """Return what opens an executor once for each choice of segments."""
    made = lru_cache(make)
    return lambda *, segments=None: made(segments)


@lru_cache
def made_logits() -> np.ndarray:
    """Later exits know more; among the rows are some that are sure at once and some that never are."""
    rng = np.random.default_rng(5)
    strength = rng.gamma(1.0, 1.0, (N, 1, 1)) * np.linspace(0.3, 3, M)[None, :, None]
    truth = np.eye(K)[rng.integers(0, K, N)][:, None, :]
    return (rng.normal(size=(N, M, K)) + strength * truth * 2).astype(np.float32)


def recorded(logits: np.ndarray) -> ex.ExitTrace:
    n, m = logits.shape[:2]
    known = {"label": np.zeros(n, dtype=int), "id": np.arange(n)}
    return ex.ExitTrace.from_logits(logits, cost=ex.CostModel(np.arange(1.0, m + 1)), **known)


@lru_cache
def trace_case() -> Case:
    logits = made_logits()

    def inputs(rows, width=3):
        return np.column_stack([np.asarray(rows, dtype=float)] * width)

    trace = recorded(logits)
    opened = partial(TraceExecutor, logits)
    return Case(opened, inputs, partial(inputs, width=5), spoiled, trace, trace)


def spoiled(values, row):
    """Return a copy in which the row holds a NaN."""
    values = copy.deepcopy(values)
    values[(row, -1) if values.ndim == 2 else (row, 0, 1, 1)] = np.nan
    return values


FIRST = 2  # exits of the cascade's first model


def made_network_policy(trace: ex.ExitTrace) -> ex.Policy:
    """A policy that lets some inputs answer at each exit, and thresholds half-way between scores."""
    policy = ex.eero(*trace.split()[:2], budget="60%")
    scores, limits = trace.scores[policy.score.name], policy.limits.score.copy()
    for exit_ in range(trace.n_exits - 1):
        below, above = scores[scores[:, exit_] < limits[exit_], exit_], scores[:, exit_]
        limits[exit_] = (below.max(initial=0.0) + above[above >= limits[exit_]].min()) / 2
    return replace(policy, limits=replace(policy.limits, score=limits))


@lru_cache
def cascade_case() -> Case:
    """Two models in a row, whose inputs are made of raw ones in different ways; only one may make them."""
    whole, logits = trace_case(), made_logits()

    def model(start, stop, width, segments):
        own = [(a - start, b - start) for a, b in segments or () if start <= a < stop]
        executor = TraceExecutor(logits[:, start:stop], segments=tuple(own))
        return CascadeModel(executor, lambda raw: np.repeat(raw[:, :1], width + raw.shape[1], axis=1))

    def opened(*, segments=None):
        return CascadeExecutor([model(0, FIRST, 1, segments), model(FIRST, M, 2, segments)])

    return replace(whole, executor=opened)


@lru_cache
def selected_case() -> Case:
    """Five of seven exits, the last one not among them."""
    whole, logits = trace_case(), made_logits()
    others = -np.ones_like(logits[:, :1]) * np.arange(K, dtype=np.float32)
    more = np.concatenate([others, logits[:, :3], others, logits[:, 3:], others], axis=1)
    exits = (1, 2, 3, 5, 6)

    def opened(*, segments=None):
        ends = [exits[last] for _, last in segments or [(i, i) for i in range(M)]]
        return SelectedExits(TraceExecutor(more, segments=segments_between([*ends, 7])), exits)

    return replace(whole, executor=opened)


def image_classifier():
    """A network of five residual blocks with few channels, whose norms can be folded: small, so quickly exported."""
    import torch

    class Images(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.convolutions = torch.nn.ModuleList([torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(M)])
            self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(8) for _ in range(M)])
            self.blocks = torch.nn.ModuleList([torch.nn.ReLU() for _ in range(M)])
            self.classifier = torch.nn.Linear(8, 10)

        def forward(self, images):
            x = self.stem(images)
            for convolution, norm, block in zip(self.convolutions, self.norms, self.blocks, strict=True):
                x = block(x + norm(convolution(x)))
            return self.classifier(x.mean((2, 3)))

    return Images().eval()


PLACES = [f"blocks.{i}" for i in range(M - 1)]


@lru_cache
def made_network():
    """A network with five exits, images in two sizes, and what it says of each."""
    torch = pytest.importorskip("torch")
    from exeunt.torch import attach, record

    torch.manual_seed(0)
    network = attach(image_classifier(), torch.randn(2, 3, 8, 8), PLACES, grid=2, verbose=False).eval()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(N, 3, side, side, generator=generator) for side in (8, 12)]
    spread_answers(network, images[0])
    traces = [record(network, [(x, torch.zeros(N, dtype=torch.int64), torch.arange(N))]) for x in images]
    return network, images, traces


def spread_answers(network, *args, **kwargs):
    """Make an untrained network say different things of different inputs, now surely and now not.

    As it is, it gives all inputs the same class, and scores gather around the thresholds. Three classes are left,
    so that neighbouring exits agree on some inputs and not on others.
    """
    import torch

    last = [head.body[-1] for head in network.heads] + [network.backbone.classifier]
    with torch.no_grad():
        for exit_, layer in enumerate(last):
            logits = network(*args, **kwargs)[exit_]  # anew: a head may read the one before
            scale = 3 / logits.std(0).mean()
            layer.bias.copy_(scale * (layer.bias - logits.mean(0)))
            layer.weight *= scale
            layer.bias[3:] -= 1000


@lru_cache
def eager_case() -> Case:
    network, (images, large), traces = made_network()
    from exeunt.torch.executor import StagedExecutor

    executor = kept(lambda segments: StagedExecutor(network, images[:2], segments=segments))
    return Case(executor, rows_of(images), rows_of(large), spoiled, *traces)


def rows_of(array):
    return lambda rows: array[np.asarray(rows, dtype=np.int64)]


def exported(network, example, **options):
    """Return what opens an executor on an export of the network, one for each choice of segments."""
    pytest.importorskip("onnxscript")
    from exeunt.onnx.executor import OnnxExecutor
    from exeunt.torch.to_onnx import export_network

    folder = tempfile.TemporaryDirectory()
    export_network(network, example, Path(folder.name), say=lambda _: None, **options)

    return kept(lambda segments: OnnxExecutor(Path(folder.name), segments=segments, threads=1))


@lru_cache
def onnx_case() -> Case:
    """An export is for one size of images: there are no larger ones."""
    network, (images, _), (trace, _) = made_network()
    inputs = rows_of(images.numpy())
    return Case(exported(network, images[:2]), inputs, inputs, spoiled, trace, trace)


def text_classifier():
    """A network of five blocks that mix words, whose answers do not depend on padding: small, so quickly exported."""
    import torch

    class Texts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.kinds = torch.nn.Embedding(50, 8), torch.nn.Embedding(2, 8)
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(M)])
            self.classifier = torch.nn.Linear(8, 3)

        def forward(self, input_ids, attention_mask, token_type_ids):
            x, mask = self.words(input_ids) + self.kinds(token_type_ids), attention_mask[..., None]
            for block in self.blocks:
                x = x + torch.tanh(block(x + self.mean(x, mask)))
            return self.classifier(self.mean(x, mask)[:, 0])

        @staticmethod
        def mean(x, mask):
            return (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)

    return Texts().eval()


@lru_cache
def made_text_network():
    """A network with five exits, whose heads read the mask; texts in two lengths, and what it says."""
    torch = pytest.importorskip("torch")
    from exeunt.torch import attach, record

    torch.manual_seed(1)
    texts = [made_texts(length) for length in (7, 14)]
    example = {name: tensor[:2] for name, tensor in texts[1].items()}
    network = attach(text_classifier(), example, PLACES, head="mean", verbose=False).eval()
    spread_answers(network, **texts[1])
    traces = [record(network, [(x, torch.zeros(N, dtype=torch.int64), torch.arange(N))]) for x in texts]
    return network, texts, traces


def made_texts(length):
    import torch

    rng = torch.Generator().manual_seed(length)
    lengths = torch.randint(2, length + 1, (N, 1), generator=rng)
    return {
        "input_ids": torch.randint(1, 50, (N, length), generator=rng),
        "attention_mask": (torch.arange(length) < lengths).long(),
        "token_type_ids": torch.randint(0, 2, (N, length), generator=rng),
    }


def text_case(executor, as_array=lambda tensor: tensor) -> Case:
    _, texts, traces = made_text_network()

    def by_name(batch):
        return lambda rows: {name: as_array(rows_of(tensor)(rows)) for name, tensor in batch.items()}

    return Case(executor, by_name(texts[0]), by_name(texts[1]), None, *traces)


@lru_cache
def eager_text_case() -> Case:
    network, (_, longer), _ = made_text_network()
    from exeunt.torch.executor import StagedExecutor

    example = {name: tensor[:2] for name, tensor in longer.items()}
    return text_case(kept(lambda segments: StagedExecutor(network, example, segments=segments)))


@lru_cache
def onnx_text_case() -> Case:
    """An export is for one length: shorter texts are filled up."""
    network, (_, longer), _ = made_text_network()
    example = {name: tensor[:2] for name, tensor in longer.items()}
    executor = exported(network, example, padding=dict.fromkeys(longer, 0))
    return text_case(executor, lambda tensor: tensor.numpy())


CASES: dict[str, Callable[[], Case]] = {
    "trace": trace_case,
    "cascade": cascade_case,
    "selected exits": selected_case,
    "eager": eager_case,
    "onnx": onnx_case,
    "eager, texts": eager_text_case,
    "onnx, texts": onnx_text_case,
}
