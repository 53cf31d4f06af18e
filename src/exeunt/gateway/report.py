"""What a gateway has certified, as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from exeunt import __version__
from exeunt._files import write_text
from exeunt.comparison.report import allowed_hash, page_part
from exeunt.gateway.certification import Way
from exeunt.gateway.standing import Certified, Standing

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 340, 56, 44
_STYLE = """
.ways circle { fill: var(--tone-4); } .ways .policy circle { fill: var(--tone-product); }
.ways .policy text { font-weight: 700; }
.ways .at-random circle { fill: none; stroke: var(--tone-4); stroke-width: 1.6; }
"""


def write_report(found: Standing, path: Path, *, reference: str) -> None:
    """Write the page of what a gateway has certified, atomically. `reference`: the model that it is measured by."""
    write_text(path, render(found, reference=reference))


def render(found: Standing, *, reference: str) -> str:
    """Return the page: what is certified, what was measured, and what one would do otherwise."""
    style = page_part("page.css") + _STYLE
    allowed = f"default-src 'none'; style-src '{allowed_hash(style)}'; base-uri 'none'; form-action 'none'"
    made_by = f"Made by Exeunt {escape(__version__)}. This file is complete: it loads nothing from anywhere."
    names = ", ".join(found.certified) or "Nothing"
    title = f"{names} {'is' if len(found.certified) < 2 else 'are'} certified"
    parts = [part for one in found.certified.values() for part in _of_policy(one, reference)]
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>Exeunt gateway</title>\n<style>{style}</style>\n</head>\n<body>",
        f'<header class="masthead"><p class="kicker">Exeunt gateway</p><h1>{escape(title)}</h1>',
        f'<ul class="summary">{_items(found.notes)}</ul></header>',
        *parts,
        f"<footer><p>{made_by}</p></footer>\n</body>\n</html>\n",
    ])  # fmt: skip


def _of_policy(policy: Certified, reference: str) -> list[str]:
    """Return the sections of a certified policy."""
    numbers = policy.measured
    sections = [_section(policy.name, "", f'<ul class="summary">{_items(policy.sentences)}</ul>')]
    if numbers is None:
        return sections
    header, rows = numbers.table()
    shares = [[model, f"{share:.1%}"] for model, share in numbers.shares.items()]
    caption = (
        f"Mean grade and mean cost on the held-out requests, beside {reference} alone. Hollow: drawn by lot."
    )
    chart = _chart(numbers.ways, numbers.reference_cost)
    return [
        *sections,
        _section("What one would do otherwise", caption, chart + _table(header, rows)),
        _section("Who answers", "", _table(["model", "share of the requests"], shares)),
    ]


def _section(title: str, caption: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="caption">{escape(caption)}</p>{content}</section>'


def _items(sentences: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in sentences)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column has names, and the others numbers."""

    def line(cells: Sequence[str], kind: str) -> str:
        first, *others = (escape(cell) for cell in cells)
        numbers = "".join(f'<{kind} class="number">{cell}</{kind}>' for cell in others)
        return f"<tr><th>{first}</th>{numbers}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f'<div class="scroll"><table><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table></div>'
    )


def _chart(ways: Sequence[Way], whole: float) -> str:
    """Return the ways to answer as points: cost as a share of the reference's, and grade."""
    shares = [one.cost / whole for one in ways]
    right = max(1.0, *shares) * 1.05
    low, high = min(one.grade for one in ways), max(one.grade for one in ways)
    room = (high - low) * 0.08 + 1e-3

    def x(share: float) -> float:
        return _LEFT + (_WIDTH - _LEFT) * share / right

    def y(grade: float) -> float:
        return (_HEIGHT - _BOTTOM) * (high + room - grade) / (high - low + 2 * room)

    lines = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y(at):.1f}" y2="{y(at):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y(at) + 4:.1f}" text-anchor="end">{at:.2f}</text>'
        for at in (low, (low + high) / 2, high)
    ]
    lines += [
        f'<text class="tick" x="{x(at):.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{at:.0%}</text>'
        for at in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    names = []  # over all points, so that none hides a name
    below = {"": 0.0, ' text-anchor="end"': 0.0}  # where the last name of a side stands
    for one, share in sorted(zip(ways, shares, strict=True), key=lambda pair: -pair[0].grade):
        kind = "policy" if one is ways[0] else "at-random" if "at random" in one.name else "model"
        end = ' text-anchor="end"' if share > right / 2 else ""
        place = x(share) + (-9 if end else 9)
        below[end] = max(y(one.grade) + 4, below[end] + 14)
        lines.append(f'<g class="{kind}"><circle cx="{x(share):.1f}" cy="{y(one.grade):.1f}" r="5"/></g>')
        names.append(
            f'<g class="{kind}"><text x="{place:.1f}" y="{below[end]:.1f}"{end}>{escape(one.name)}</text></g>'
        )
    lines += names
    label = "mean cost, share of the reference's"
    lines.append(
        f'<text class="title" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{label}</text>'
    )
    return (
        f'<div class="chart ways"><svg role="img" aria-label="mean grade against mean cost" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(lines)}</svg></div>'
    )
