"""The page of the simulation: for each fixed world what was printed or promised, and what is true, before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from statistics import mean, median
from typing import Any, TypeAlias

from experiments.pages import RESULTS, table, write_page
from tests.gateway.simulation.fixed_worlds import LOOKS
from tests.gateway.simulation.weeks import CHANGE_AT

PAGE = RESULTS / "live-traffic.md"
SIDES = ("before", "after")
_MOST = 10_000
"""Worlds of a name, at most."""
_SAVES = 2 / 3
"""Of the reference's cost, by the plan that there is in the world `enough`."""
Lines: TypeAlias = Sequence[Mapping[str, Any]]
"""What was measured of one world, a line for each seed."""
Cell: TypeAlias = "tuple[str, str]"
"""What was printed or promised, and what is true."""


def points(loss: float) -> str:
    """Write a loss."""
    return f"{100 * loss:.1f} points"


def _first(lines: Lines, place: int = 0) -> list[Mapping[str, Any]]:
    """Return the looks at this place that have found a certificate."""
    return [
        line["looks"][place] for line in lines if len(line["looks"]) > place and line["looks"][place]["name"]
    ]


def _false(looks: Sequence[Mapping[str, Any]]) -> int:
    return sum(look["loss"] > look["max_loss"] for look in looks)


def _promised(looks: Sequence[Mapping[str, Any]]) -> str:
    """Write the limit and what was measured, means over worlds."""
    if not looks:
        return "nothing certified"
    lost, saved = (mean(look["printed"][what][0] for look in looks) for what in ("loss", "saved"))
    return f"at most {100 * looks[0]['max_loss']:g} points; {points(lost)} lost and {saved:.1%} saved"


def _true(looks: Sequence[Mapping[str, Any]], of: int) -> str:
    if not looks:
        return ""
    lost = mean(look["loss"] for look in looks)
    return f"{points(lost)} per request; false in {_false(looks)} of {of} worlds"


def _users(lines: Lines) -> Cell:
    alone, within = _first(lines), _first(lines, 1)
    kept = [look["printed"]["probability"] for look in within if look["printed"]["probability"]]
    printed = f"{_promised(alone)}; a budget of 20% certified in {len(kept)}"
    true = _true(alone, len(lines))
    if alone:
        true += f"; costs {mean(look['cost'] / look['reference'] for look in alone):.1%} of the reference"
    return printed + (f", at {min(kept):.1%}" if kept else ""), true


def _certified(lines: Lines) -> Cell:
    looks = _first(lines)
    return _promised(looks), _true(looks, len(lines))


def _often(lines: Lines) -> Cell:
    printed, true = _certified(lines)
    shares = [look["printed"]["shares"].get("small", 0.0) for look in _first(lines)]
    if shares:
        printed += f"; the small model answers {mean(shares):.0%}"
    return printed, f"{true}; {_alarmed(lines)}"


def _alarmed(lines: Lines) -> str:
    """Write in how many worlds an alarm came, and when."""
    at = [line["alarms"][0]["answered"] for line in lines if line["alarms"]]
    when = f", at answer {median(at):.0f} (median)" if at else ""
    return f"an alarm in {len(at)} of {len(lines)}{when}"


def _run_length(lines: Lines) -> Cell:
    return "one alarm in 100,000 requests", _alarmed(lines)


def _looks(lines: Lines) -> Cell:
    shares = []
    for k in LOOKS:
        false = [_false([look for look in line["looks"][:k] if look["name"]]) > 0 for line in lines]
        shares.append(f"{mean(false):.0%} after {k}")
    return "5% false", ", ".join(shares) + " looks"


def _again(lines: Lines) -> Cell:
    later = [[look for look in line["looks"][1:] if look["name"]] for line in lines]
    looks = [look for some in later for look in some]
    false = sum(_false(some) > 0 for some in later)
    worst = mean(max((look["loss"] for look in some), default=0.0) for some in later)
    true = f"false in {false} of {len(lines)} worlds; {points(worst)} per request (the worst of each)"
    return _promised(looks), true


def _money(lines: Lines) -> Cell:
    printed, true = _certified(lines)
    kinds = [[one["compared"] / one["came"] for one in line["included"]] for line in lines]
    notes = sum(bool(look["printed"]["notes"]) for look in _first(lines))
    short, long = (mean(shares) for shares in zip(*kinds, strict=True))
    compared = f"{short:.0%} of the short requests were compared, {long:.1%} of the long"
    told = f"{printed}; a note in {notes}" if _first(lines) else printed
    return told, f"{true}; {compared}" if true else compared


def _bill(lines: Lines) -> Cell:
    live = [line["live"] for line in lines if line["live"]]
    printed = mean(one["printed_saved"][0] for one in live)
    net = mean(one["reference_alone"] - one["spent"] for one in live)
    before = mean(one["spent_before"] - one["reference_alone_before"] for one in live)
    true = f"{net:.3f} usd with audits; comparisons had cost {before:.3f}: {net - before:+.3f} usd in all"
    return f"saved {printed:.3f} usd", true


def _few(lines: Lines) -> Cell:
    more = [[look["more"] for look in line["looks"] if look["more"]] for line in lines]
    ends = [line["units"]["users"] for line in lines]
    twice = zip(*(one for one in more if len(one) == 2), strict=True)
    told = "; a thousand requests later ".join(f"about {median(values):,.0f} more" for values in twice)
    if any("scarce" in look for line in lines for look in line["looks"]):
        said = sum(any(look["scarce"] for look in line["looks"]) for line in lines)
        told += f"; that fewer may come is said in {said} of {sum(map(bool, more))}"
    return told or "nothing", f"{400 - mean(ends):.1f} of 400 users have not come yet"


def _opted(lines: Lines) -> Cell:
    own = [line["private"] for line in lines]
    share = sum(one["by_policy"] for one in own) / max(1, sum(one["requests"] for one in own))
    losses = [one["loss"] for one in own if one["loss"] is not None]
    lost = points(mean(losses) if losses else 0.0)
    compared = sum(one["compared"] for one in own)
    answered = f"{share:.0%} of their requests are answered by the policy"
    return _promised(_first(lines)), f"{answered}, and lose {lost}; {compared} were compared"


ROWS: dict[str, tuple[str, Callable[[Lines], Cell]]] = {
    "users_and_integrations": ("1,000 users with a request each, 20 integrations with 100", _users),
    "one_prompt_40": ("40% of the requests one prompt that the small model gets wrong", _often),
    "late_answers": ("no drift; answers of .5 and 6 s, 40 a second", _run_length),
    "conversations_no_drift": ("no drift; conversations of ten turns", _run_length),
    "looking_again": ("the owner looks again every 100 requests; plans at their limit", _looks),
    "after_an_alarm": ("the small model becomes worse; the owner certifies again after the alarm", _again),
    "money_short": (
        "comparison money short; long requests are dear, and the small model is wrong on them",
        _money,
    ),
    "the_bill": ("1,500 requests in shadow, 1,500 live", _bill),
    "few_users": ("400 users, all named in requests", _few),
    "opted_out": ("one client in two with `--no-shadow`", _opted),
}


def _weeks(lines: Lines) -> Cell:
    """Write how often anything was certified falsely, over all looks of a world, and how often intervals held."""
    # Of traffic that has changed nothing is promised until the alarm: what notices that is the watch.
    looks = [[look for look in line["looks"] if look["name"] and not look["stale"]] for line in lines]
    certified = sum(map(bool, looks))
    loss = sum(_false(some) > 0 for some in looks)
    cost = sum(any(map(over_budget, some)) for some in looks)
    return f"5% false over all looks and questions; certified in {certified} of {len(lines)}", (
        f"a loss certified falsely in {loss} worlds, a budget in {cost}; {_covered(lines)}"
    )


def _covered(lines: Lines) -> str:
    """Write in how many worlds the last 95% interval of the cost holds the true one: looks of a world are alike."""
    last = [look for line in lines if (look := last_interval(line))]
    of = {what: [look for look in last if look["unlike"] == what] for what in ("", "few", "return")}
    held = {what: f"{sum(map(cost_is_inside, looks))} of {len(looks)}" for what, looks in of.items()}
    return (
        f"the last printed 95% interval of the cost holds the true one in {held['']} worlds, in {held['few']} of those "
        "where a fiftieth of the units hold more than a twentieth of the requests, and in "
        f"{held['return']} of those where users are the units and some come back"
    )


def last_interval(line: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the last look of a world of weeks that printed an interval of the cost; None without one."""
    looks = [look for look in line["looks"] if look["name"] and not look["stale"]]
    told = [look for look in looks if not isnan(look["printed"]["cost"][0])]
    unlike = "return" if line["users_return"] else "few" if line["few_hold_many"] else ""
    return {**told[-1], "unlike": unlike} if told else None


def cost_is_inside(look: Mapping[str, Any]) -> bool:
    """Return whether the true cost lies in the printed interval: US dollars before, a share of the reference's now."""
    _, low, high = look["printed"]["cost"]
    true = look["cost"] if look["share"] is None else look["cost"] / look["reference"]
    return bool(low <= true <= high)


def over_budget(look: Mapping[str, Any]) -> bool:
    """Return whether a policy that is certified within a budget truly costs more."""
    printed = look["printed"]
    if printed["probability"] is None:
        return False
    # A share of the reference's cost, for the requests that the policy may answer.
    if look["share"] is not None:
        return bool(look["share"] > printed["budget"])
    return bool(look["cost"] > float(look["budget"].rstrip("%")) / 100 * look["reference"])


def _enough(lines: Lines) -> Cell:
    looks = [line["looks"][-1] for line in lines]
    found = f"{mean(map(saves_half, looks)):.0%} of {len(looks)}"
    return "80% certify a plan that saves half of what can be saved", found


def saves_half(look: Mapping[str, Any]) -> bool:
    """Return whether a plan is certified that saves half of what there is to save in the world `enough`."""
    return bool(look["name"]) and bool(1 - look["cost"] / look["reference"] >= _SAVES / 2)


def _changed(lines: Lines) -> Cell:
    alarmed = [line["requests"] - CHANGE_AT for line in lines if line["alarms"]]
    after = [requests for requests in alarmed if requests >= 0]
    when = f", after {median(after):.0f} requests (median)" if after else ""
    return (
        "an alarm after the change",
        f"in {len(after)} of {len(lines)}{when}; before it in {len(alarmed) - len(after)}",
    )


MORE: dict[str, tuple[str, Callable[[Lines], Cell]]] = {
    "weeks": ("two weeks of an owner, by lot: all of the above and more in every mixture", _weeks),
    "enough": ("3,000 units, and a plan that loses half of what is allowed and saves two thirds", _enough),
    "change": ("the small model becomes worse while a policy answers", _changed),
}


def _table(
    rows: Mapping[str, tuple[str, Callable[[Lines], Cell]]], known: Mapping[tuple[Any, ...], Any]
) -> str:
    made = []
    for name, (tried, cell) in rows.items():
        cells, numbers = [], []
        for side in SIDES:
            lines = [known[side, name, seed] for seed in range(_MOST) if (side, name, seed) in known]
            cells += cell(lines) if lines else ("", "")
            numbers.append(f"{len(lines):,}")
        if any(cells):
            made.append([tried, " / ".join(numbers), *cells])
    told = [f"{side}: {what}" for side in SIDES for what in ("printed or promised", "true")]
    return table(("tried", "worlds", *told), made) if made else ""


def write(known: Mapping[tuple[Any, ...], Any]) -> None:
    """Write the page from what was measured: by side, name of the world, and seed."""
    seconds = [found["seconds"] for found in known.values()]
    about = (
        "A gateway's own classes answer in virtual time; only the provider is a stand-in, which keeps books of every "
        "call. What the models would say is drawn from kinds of requests, so what a policy loses and costs is known by "
        "construction. `before` is the gateway whose records, watch, tally and certificates each counted in a way of "
        "their own, as of commit 5df78fd6; `after` is the one whose live traffic is one stream. Means over worlds, "
        "which differ in their seeds; `worlds` counts them, before / after. Where comparison money is short, `after` "
        "has .3 usd a day and a cap of .13 usd for a request, where `before` had .002 usd a minute and no cap."
    )
    took = f"A world takes {median(seconds):.0f} s of a core (median)." if seconds else ""
    made = (
        "Made by `python -m tests.gateway.simulation`; what was measured is in "
        "[live-traffic.jsonl](live-traffic.jsonl)."
    )
    title, tables = (
        "# What a gateway promises on live traffic",
        [_table(rows, known) for rows in (ROWS, MORE)],
    )
    parts = [title, made, about, *tables, took]
    write_page(PAGE, "\n\n".join(filter(None, parts)))
