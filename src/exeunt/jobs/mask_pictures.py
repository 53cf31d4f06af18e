"""A page of pictures: inputs of the test part, the mask of each exit, and where the policy answered."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats
from exeunt._support.files import write_text
from exeunt._support.text import counted
from exeunt.errors import InputError, require
from exeunt.evaluation.report import allowed_hash
from exeunt.jobs.record import all_outputs
from exeunt.policy import Policy
from exeunt.runs.executors import chosen_executor, open_executor
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import load_preparation, part_data
from exeunt.score.mask_confidence import MaskEvidence, Masks
from exeunt.trace.mask_trace import image_losses

_GROUND, _NONE = "#33383e", "#ffffff"
_COLOURS = (
    _GROUND,
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#7f4f24",
    "#8c6bb1",
    "#9acd32",
    "#b0b0b0",
)


def draw_masks(
    run: RunFolder,
    policy: Policy,
    count: int,
    out: Path,
    *,
    executor: str | None = None,
    trusted: str | None = None,
) -> Path:
    """Write a page with `count` test images, the mask of each exit and where the policy answered; return its path.

    The images are the first ones of each exit that answers some, in turn. For the other options see `exeunt.load`.
    Raises InputError for a network that answers with classes, and where the data of the run are not found.
    """
    if not run.masks:
        raise InputError(f"{run.path} answers with classes: pictures are of networks that answer with masks")
    require("PIL", extra="plots")
    data, prepare = part_data(run, "test"), load_preparation(run)
    exits = policy.route(run.replayed(policy, "test"))
    rows = _chosen(exits, count)
    pictures = [prepare.resize(data.content(row), name=data.name(row)) for row in rows]
    opened = open_executor(run, chosen_executor(run, executor), trusted=trusted)
    outputs, _ = all_outputs(opened, prepare.batch(pictures))
    masks = np.stack([MaskEvidence(output, opened.mask_scale)["mask"] for output in outputs], axis=1)
    truth = data.targets(np.array(rows), prepare)
    names, shares = run.manifest["class_names"], policy.cost.cumulative / policy.cost.full
    of_truth = [None] * len(rows) if truth is None else truth
    articles = [
        _article(data.name(row), int(exits[row]), picture, answers, true, shares, len(names))
        for row, picture, answers, true in zip(rows, pictures, masks, of_truth, strict=True)
    ]
    within = "" if policy.limit is None else f" within {policy.limit / policy.cost.full:.0%} of the full cost"
    lead = f"{counted(len(rows), 'image')} of the test part, and where {policy.name} answered them{within}."
    write_text(out, _page(lead, names, articles))
    return out


def _chosen(exits: NDArray[Any], count: int) -> list[int]:
    """Return the rows of the first inputs of each exit, in turn: an input of every exit before a second one of any."""
    by_exit = [np.flatnonzero(exits == exit_).tolist() for exit_ in np.unique(exits)]
    in_turn = [row for turn in zip_longest(*by_exit) for row in turn if row is not None]
    return sorted(in_turn[:count], key=lambda row: (exits[row], row))


def _article(name: str, answered: int, picture: Any, masks: Masks, truth: Any, shares: Floats, k: int) -> str:
    """Return the part of the page for one image. `masks` (m, h, w), `truth` (h, w) or None."""
    full = len(masks) - 1
    if truth is None:
        alike = (masks == masks[full]).mean(axis=(1, 2))
        good = [f"{share:.1%} as exit {full}" for share in alike]
    else:
        good = [f"IoU {1 - loss:.1%}" for loss in image_losses(masks[None], truth[None], k)[0]]
    figures = [_figure("the image", "", _png(picture))]
    if truth is not None:
        figures.append(
            _figure("the true mask", "", _png_of_mask(np.where(truth < 0, 255, truth).astype(np.uint8)))
        )
    for exit_, mask in enumerate(masks):
        kind = "answer" if exit_ == answered else "later" if exit_ > answered else ""
        about = f"{shares[exit_]:.0%} of the cost<br>{good[exit_]}"
        figures.append(_figure(f"exit {exit_}", about, _png_of_mask(mask), kind))
    caption = f"answered at exit {answered}, {shares[answered]:.0%} of the cost, {good[answered]}"
    return f"<article><h2>{escape(name)}</h2><p>{caption}</p><div>{''.join(figures)}</div></article>"


def _figure(title: str, about: str, png: bytes, kind: str = "") -> str:
    mark = " <strong>answered</strong>" if kind == "answer" else ""
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    caption = f"<b>{title}</b>{mark}" + (f"<br>{about}" if about else "")
    image = f'<img src="{source}" alt="{title}">'
    return f'<figure class="{kind or "shown"}">{image}<figcaption>{caption}</figcaption></figure>'


def _page(lead: str, names: Sequence[str], articles: Sequence[str]) -> str:
    colours = list(_colours(len(names)))
    style = files(__package__).joinpath("mask_pictures.css").read_text(encoding="utf-8")
    style += "".join(f".k{k} {{ background: {colour}; }}\n" for k, colour in enumerate(colours))
    classes = "".join(f'<li><i class="k{k}"></i>{escape(name)}</li>' for k, name in enumerate(names))
    allowed = f"img-src data:; style-src '{allowed_hash(style)}'"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>Masks by exit</title>
<style>{style}</style>
</head>
<body>
<header><h1>Masks by exit</h1><p>{escape(lead)} Masks after the answer were not computed in use: they are faded.</p>
<ul>{classes}</ul></header>
<main>
{"".join(articles)}
</main>
</body>
</html>
"""


def _colours(k: int) -> Iterator[str]:
    """Yield the colours of k classes; beyond a few they repeat."""
    return (_COLOURS[number % len(_COLOURS)] for number in range(k))


def _png_of_mask(mask: Masks) -> bytes:
    """Return a mask (h, w) as PNG in the classes' colours; 255 is no class."""
    from PIL import Image

    image = Image.fromarray(mask)
    image.putpalette(bytes.fromhex("".join(colour[1:] for colour in (*_colours(255), _NONE))))
    return _saved(image)


def _png(picture: Any) -> bytes:
    from PIL import Image

    return _saved(Image.fromarray(picture))


def _saved(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
