"""Units of requests that a cheap model answers well where their first feature is high, compared in shadow."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from exeunt.gateway.folder import GatewayModels
from exeunt.stream.records import COMPARED, Record, Records, Said
from exeunt.stream.units import Unit

MODELS = GatewayModels("large", {"small": 4e-5, "large": 4e-4}, "features", 1e-8)
WITHOUT_FEATURES = GatewayModels("large", {"small": 4e-5, "large": 4e-4})
CAP = 0.001


def records(n, seed=0, *, scores=True, of_users=0, setting=1):
    """Return n compared requests. `of_users`: how many units they are of, in turn; 0 for a unit each. `setting`: see
    `Records.setting`.
    """
    rng = np.random.default_rng(seed)
    features = np.float32(rng.normal(size=(n, 3)))
    easy = 1 / (1 + np.exp(-4 * features[:, 0]))
    small, large = rng.random(n) < easy, rng.random(n) < 0.9
    score = np.round(np.clip(easy + rng.normal(0, 0.1, n), 0, 1), 2)
    tokens = rng.integers(10, 41, n)
    made = []
    for k in range(n):
        said = {
            "small": Said(tokens[k] * 1e-6, float(score[k]) if scores else None, float(small[k])),
            "large": Said(tokens[k] * 1e-5, None, float(large[k])),
        }
        unit, row = (k % of_users, k // of_users) if of_users else (k, 0)
        made.append(
            Record(
                k + 1, float(k), "shop", f"{k:032x}", said, setting=setting, unit=unit + 1, row=row, is_open=True,
                answered="large", asked=("large",), cost=said["large"].cost, input_cost=tokens[k] * 2e-6,
                compared=COMPARED, features=tuple(features[k].tolist()),
            )
        )  # fmt: skip
    return made


def units_of(made: Iterable[Record], **fields) -> list[tuple[Unit, list[Record]]]:
    """Return the drawn units of requests, which have closed, each with its requests, in order of arrival.

    Units are held out in turn. `fields`: of all units, such as their probability.
    """
    found: dict[int, tuple[Unit, list[Record]]] = {}
    for record in made:
        new = Unit(record.unit, record.client, record.time, record.time, drawn=True, probability=1.0)
        unit, inside = found.setdefault(record.unit, (new, []))
        unit.rows, unit.latest, unit.setting = max(unit.rows, record.row + 1), record.time, record.setting
        unit.closed, unit.held_out = record.time, bool(record.unit % 2)
        inside.append(record)
    return [(replace(unit, **fields), inside) for unit, inside in found.values()]


def units(n, seed=0, *, rows=1, scores=True, clients: Sequence[str] = ("shop",), **fields):
    """Return n drawn units of 1 to `rows` requests each, with these; the clients take turns."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, rows + 1, n).tolist()
    made = iter(records(sum(sizes), seed, scores=scores))
    inside = []
    for k, size in enumerate(sizes):
        first = None
        for row in range(size):
            one = next(made)
            first = first or one.number
            inside.append(replace(one, unit=first, row=row, client=clients[k % len(clients)]))
    return units_of(inside, **fields)


def keep(folder, made: Iterable[tuple[Unit, Sequence[Record]]], setting=None) -> Records:
    """Write units and their requests into a folder, and return its records, open. `setting`: body of their setting."""
    kept = Records(folder)
    kept.setting({} if setting is None else setting, 0.0)
    for unit, inside in made:
        for record in inside:
            kept.add(record, [unit])
    return kept
