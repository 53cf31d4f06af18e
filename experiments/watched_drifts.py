"""Six drifts at three strengths, recorded: noise, blur and contrast of CIFAR-10 images, class shift, texts out of
scope, and a model of a cascade that is replaced by a worse one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from experiments.pages import TRACES

import exeunt as ex
from exeunt.trace import concatenate
from exeunt.trace.cascade_step import CascadeStep

if TYPE_CHECKING:
    from pathlib import Path

STRENGTHS = ("weak", "middle", "strong")
NOISE, BLUR, CONTRAST = (0.03, 0.06, 0.12), (0.4, 0.6, 1.0), (0.8, 0.6, 0.4)
HARD_CLASSES, HARDER = (2, 3, 4, 5), (1.5, 2.5, 5.0)
OUT_OF_SCOPE = (0.05, 0.15, 0.4)
WORSE = (0.3, 0.6, 1.0)
N_FIT, N_TRAIN, N_CORRUPTED = 1500, 5000, 2500


class Source(NamedTuple):
    """Where streams come from: rows to fit, a pool of clean rows, and by strength drifted rows with their weights."""

    fit: ex.ExitTrace
    clean: ex.ExitTrace
    drifted: dict[str, tuple[ex.ExitTrace, np.ndarray]]


def evenly(trace: ex.ExitTrace) -> tuple[ex.ExitTrace, np.ndarray]:
    return trace, np.full(trace.n, 1 / trace.n)


def all_sources(data: Path, models: Path, kept: Path) -> dict[str, Source]:
    """Return the drifts by name. Outputs are recorded once, into `kept`."""
    kept.mkdir(parents=True, exist_ok=True)
    images = recorded_images(data / "cifar10", models, kept)
    fit, clean = images["clean"].take(slice(N_FIT)), images["clean"].take(slice(N_FIT, None))
    found = {
        name: Source(fit, clean, {strength: evenly(images[f"{name}-{strength}"]) for strength in STRENGTHS})
        for name in ("noise", "blur", "contrast")
    }
    weights = [np.where(np.isin(clean.label, HARD_CLASSES), times, 1.0) for times in HARDER]
    shifts = {strength: (clean, one / one.sum()) for strength, one in zip(STRENGTHS, weights, strict=True)}
    found["class shift"] = Source(fit, clean, shifts)
    found["texts out of scope"] = texts(data, kept)
    found["a worse model"] = worse_models()
    return found


# -- images through a network -----------------------------------------------------------------------------------------


def recorded_images(data: Path, models: Path, kept: Path) -> dict[str, ex.ExitTrace]:
    """Return what a ResNet-20 with two linear heads says of test images, clean and corrupted."""
    names = ["clean", *(f"{name}-{one}" for name in ("noise", "blur", "contrast") for one in STRENGTHS)]
    if not all((kept / f"{name}.parquet").is_file() for name in names):
        record_images(data, models, kept)
    return {name: ex.ExitTrace.load(kept / f"{name}.parquet") for name in names}


def record_images(data: Path, models: Path, kept: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from sklearn.linear_model import LogisticRegression

    from exeunt.zoo import resnet20

    network = resnet20().eval()
    network.load_state_dict(load_file(models / "resnet20_cifar10.safetensors"))
    seen: list[torch.Tensor] = []
    for group in (network.layer1, network.layer2):
        group.register_forward_hook(lambda _, __, out: seen.append(out.mean((2, 3))))

    def outputs(pixels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the pooled features of both groups, and the logits, of images (n, 3, 32, 32) in [0, 1]."""
        mean, std = (
            np.array(one, np.float32)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        features, logits = ([], []), []
        for start in range(0, len(pixels), 250):
            seen.clear()
            with torch.no_grad():
                logits.append(network(torch.from_numpy((pixels[start : start + 250] - mean) / std)).numpy())
            for into, one in zip(features, seen, strict=True):
                into.append(one.numpy())
        return [np.concatenate(one) for one in features], np.concatenate(logits)

    train, train_label = pixels_of(data / "train.parquet", N_TRAIN)
    heads = [LogisticRegression(max_iter=300).fit(one / one.std(), train_label) for one in outputs(train)[0]]
    scales = [one.std() for one in outputs(train)[0]]
    test, label = pixels_of(data / "test.parquet", 10_000)

    def keep(name: str, pixels: np.ndarray, of: slice) -> None:
        features, last = outputs(pixels.astype(np.float32))
        early = [
            head.decision_function(one / scale)
            for head, one, scale in zip(heads, features, scales, strict=True)
        ]
        cost = ex.CostModel([13.6e6, 27.1e6, 40.6e6])
        made = ex.ExitTrace.from_logits(
            np.stack([*early, last], axis=1), cost=cost, label=label[of], id=np.arange(10_000)[of]
        )
        made.save(kept / f"{name}.parquet")
        print(f"recorded: {name}", flush=True)

    keep("clean", test, slice(None))
    of, rng = slice(10_000 - N_CORRUPTED, None), np.random.default_rng(0)
    for k, strength in enumerate(STRENGTHS):
        some = test[of]
        keep(f"noise-{strength}", np.clip(some + rng.normal(0, NOISE[k], some.shape), 0, 1), of)
        keep(f"blur-{strength}", blurred(some, BLUR[k]), of)
        middle = some.mean(axis=(1, 2, 3), keepdims=True)
        keep(f"contrast-{strength}", middle + CONTRAST[k] * (some - middle), of)


def pixels_of(path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n images (n, 3, 32, 32) in [0, 1], drawn at random, and their classes."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    read = pq.read_table(path)
    rows = np.random.default_rng(0).permutation(read.num_rows)[:n]
    table = read.take(rows)
    images = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in table["img"].to_pylist()]
    return np.moveaxis(np.stack(images), -1, 1).astype(np.float32) / 255, table["label"].to_numpy()


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(pixels, (0, 0, sigma, sigma))


# -- texts, and models of a cascade -----------------------------------------------------------------------------------


def texts(data: Path, kept: Path) -> Source:
    """Questions to a bank by two classifiers of words and of characters; then some questions are of other kinds."""
    names = ("texts", "texts-other")
    if not all((kept / f"{name}.parquet").is_file() for name in names):
        record_texts(data, kept)
    own, other = (ex.ExitTrace.load(kept / f"{name}.parquet") for name in names)
    fit, clean = own.take(slice(600)), own.take(slice(600, None))
    mixed = concatenate([clean, other])
    drifted = {}
    for strength, share in zip(STRENGTHS, OUT_OF_SCOPE, strict=True):
        weights = np.r_[np.full(clean.n, (1 - share) / clean.n), np.full(other.n, share / other.n)]
        drifted[strength] = mixed, weights
    return Source(fit, clean, drifted)


def record_texts(data: Path, kept: Path) -> None:
    import pyarrow.parquet as pq
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    parts = [pq.read_table(data / "text" / "banking77" / f"{part}.parquet") for part in ("train", "test")]
    (train, label), (test, test_label) = ((one["text"].to_pylist(), one["label"].to_numpy()) for one in parts)
    other = pq.read_table(data / "router" / "questions.parquet")["question"].to_pylist()[:2000]
    classifiers = [
        make_pipeline(TfidfVectorizer(**options), LogisticRegression(C=20, max_iter=100)).fit(train, label)
        for options in ({}, {"analyzer": "char_wb", "ngram_range": (2, 4), "max_features": 20_000})
    ]
    order = np.random.default_rng(0).permutation(len(test))
    for name, some, labels in (
        ("texts", [test[i] for i in order], test_label[order]), ("texts-other", other, np.zeros(len(other), int)),
    ):  # fmt: skip
        probabilities = np.stack([one.predict_proba(some) for one in classifiers], axis=1)
        ex.ExitTrace.from_probabilities(probabilities, cost=ex.CostModel([1.0, 8.0]), label=labels).save(
            kept / f"{name}.parquet"
        )
        print(f"recorded: {name}", flush=True)


def worse_models() -> Source:
    """A fine-tuned ResNet-20 and then a ResNet-56; a ResNet-20 with frozen weights takes the place of the first."""
    good, worse = (in_a_row(name) for name in ("resnet20-tuned", "resnet20"))
    rest = slice(N_FIT, None)
    clean, replaced = good.take(rest), worse.take(rest)
    mixed, drifted = concatenate([clean, replaced]), {}
    for strength, share in zip(STRENGTHS, WORSE, strict=True):
        drifted[strength] = mixed, np.repeat([1 - share, share], clean.n) / clean.n
    return Source(good.take(slice(N_FIT)), clean, drifted)


def in_a_row(small: str) -> ex.ExitTrace:
    """Return the exits of a ResNet-20, and then the ResNet-56's last one."""
    traces = [ex.ExitTrace.load(TRACES / f"{name}-cifar10-cascade.parquet") for name in (small, "resnet56")]
    first, second = (one.take(np.argsort(one.id)) for one in traces)
    models = ex.CascadeTrace({"small": first, "large": second})
    made = models.along((CascadeStep("small", first.n_exits), CascadeStep("large", (second.n_exits - 1,))))
    return made.take(np.random.default_rng(0).permutation(made.n))
