"""What a gateway has certified, as one HTML file that opens offline."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from html import escape
from pathlib import Path

from exeunt import __version__
from exeunt._support.files import open_regular, write_text
from exeunt.evaluation.report import allowed_hash, page_part
from exeunt.gateway.certification_status import CertificationStatus, Certified
from exeunt.gateway.plan_measurement import Way

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 480, 290, 44, 44
_LINE, _LONGEST = 14.0, 30
"""The height of a name in the picture, and its letters at most: the table has all of it."""
_TIME = re.compile(r"(?<=Exeunt gateway, )[\d: -]+(?= UTC)")
_STYLE = """
h1, h2, .summary, .caption { overflow-wrap: anywhere; }
section > .summary { max-width: 46rem; }
section > .caption { margin-top: 22px; }
.ways { max-width: 600px; margin-bottom: 16px; }
.ways circle { fill: var(--tone-4); } .ways .policy circle { fill: var(--tone-product); }
.ways .policy text { font-weight: 700; }
.ways .at-random circle { fill: none; stroke: var(--tone-4); stroke-width: 1.6; }
"""


def write_report(
    status: CertificationStatus, path: Path, *, reference: str, bill: str, now: float, feedback: str = ""
) -> None:
    """Write the page of what a gateway has certified, atomically, unless it says the same already, but for the time.
    `reference`: the model that it is measured by. `bill`: what was saved by the time `now`, see `Bill.told`.
    `feedback`: see `feedback_told`.
    """
    page, former = render(status, reference=reference, bill=bill, now=now, feedback=feedback), ""
    with suppress(OSError, UnicodeDecodeError), open_regular(path) as file:
        former = file.read().decode()
    if _TIME.sub("", former) != _TIME.sub("", page):
        write_text(path, page)


def render(status: CertificationStatus, *, reference: str, bill: str, now: float, feedback: str = "") -> str:
    """Return the page: what is certified, what was measured, and what one would do otherwise."""
    style = page_part("page.css") + _STYLE
    allowed = f"default-src 'none'; style-src '{allowed_hash(style)}'; base-uri 'none'; form-action 'none'"
    made_by = f"Made by Exeunt {escape(__version__)}. This file is complete: it loads nothing from anywhere."
    time = datetime.fromtimestamp(now, timezone.utc)
    best_first = sorted(status.certified.values(), key=lambda policy: policy.cost)
    told = [*filter(None, (bill, feedback)), *status.also(status.certified), *status.notes]
    parts = [_of_policy(policy, reference) for policy in best_first]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{allowed}">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>Exeunt gateway</title>\n<style>{style}</style>\n</head>\n<body>",
            f'<header class="masthead"><p class="kicker">Exeunt gateway, {time:%Y-%m-%d %H:%M} UTC</p>',
            f"<h1>{escape(_title([policy.name for policy in best_first]))}</h1>",
            f'<ul class="summary">{_items(told)}</ul></header>',
            *parts,
            f"<footer><p>{made_by}</p></footer>\n</body>\n</html>\n",
        ]
    )


def _title(names: Sequence[str]) -> str:
    if not names:
        return "Nothing is certified now"
    *first, last = names
    return f"{', '.join(first)} and {last} are certified" if first else f"{last} is certified"


def _of_policy(policy: Certified, reference: str) -> str:
    """Return the section of a certified policy."""
    numbers = policy.measured
    content = f'<ul class="summary">{_items(policy.sentences)}</ul>'
    if numbers is not None:
        caption = (
            f"What one would do otherwise, on the same held-out requests, beside {reference} alone. Up: mean grade. To "
            "the right: mean cost. Hollow: drawn by lot."
        )
        chart = _chart(numbers.ways, numbers.reference_cost)
        content += f'<p class="caption">{escape(caption)}</p>{chart}{_table(*numbers.table())}'
    return f"<section><h2>{escape(policy.name)}</h2>{content}</section>"


def _items(sentences: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in sentences)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column has names, and the others numbers."""

    def line(cells: Sequence[str], kind: str) -> str:
        first, *rest = (escape(cell) for cell in cells)
        numbers = "".join(f'<{kind} class="number">{cell}</{kind}>' for cell in rest)
        return f"<tr><th>{first}</th>{numbers}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f'<div class="scroll"><table><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table></div>'
    )


def _chart(ways: Sequence[Way], reference_cost: float) -> str:
    """Return the ways to answer as points: cost as a share of the reference's, and grade."""
    shares = [way.cost / reference_cost for way in ways]
    right = max(1.0, *shares) * 1.05
    low, high = min(way.grade for way in ways), max(way.grade for way in ways)
    room = (high - low) * 0.08 + 1e-3

    def x(share: float) -> float:
        return _LEFT + (_WIDTH - _LEFT) * share / right

    def y(grade: float) -> float:
        return (_HEIGHT - _BOTTOM) * (high + room - grade) / (high - low + 2 * room)

    lines = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:.2f}</text>'
        for mark in (low, (low + high) / 2, high)
    ]
    lines += [
        f'<text class="tick" x="{x(mark):.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{mark:.0%}</text>'
        for mark in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    places = [(x(share), y(way.grade)) for way, share in zip(ways, shares, strict=True)]
    kinds = [
        "policy" if way is ways[0] else "at-random" if "at random" in way.name else "model" for way in ways
    ]
    lines += [
        f'<g class="{kind}"><circle cx="{across:.1f}" cy="{down:.1f}" r="5"/></g>'
        for kind, (across, down) in zip(kinds, places, strict=True)
    ]
    for at_end in (False, True):  # names of a side stand one below the other, over all points
        side = [k for k, share in enumerate(shares) if (share > right / 2) == at_end]
        anchor = ' text-anchor="end"' if at_end else ""
        for k, down in zip(side, _apart([places[k][1] for k in side]), strict=True):
            across = places[k][0] + (-9 if at_end else 9)
            lines.append(
                f'<g class="{kinds[k]}"><text x="{across:.1f}" y="{down + 4:.1f}"{anchor}>'
                f"{escape(_short(ways[k].name))}</text></g>"
            )
    label = "mean cost, share of the reference's"
    lines.append(
        f'<text class="title" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{label}</text>'
    )
    return (
        f'<div class="chart ways"><svg role="img" aria-label="mean grade against mean cost" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(lines)}</svg></div>'
    )


def _apart(places: Sequence[float]) -> list[float]:
    """Return places near these, a line or more from one another, and above the axis where there is room."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    apart, above, below = list(places), -math.inf, _HEIGHT - _BOTTOM + _LINE
    for k in order:
        above = apart[k] = max(places[k], above + _LINE)
    for k in reversed(order):
        below = apart[k] = min(apart[k], below - _LINE)
    return apart


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\u2026"
