"""What part of the data goes to training, fitting, calibration and test, without overlap.

Guarantees hold only on inputs the network has not learned from (METHOD: D_train, D_fit, D_cal, D_test). A
network trained here leaves `fit` and `calibrate` out of its training data; a pretrained one has seen all of
them, so both come out of the test data. Identical inputs always share a part, wherever they lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exeunt._arrays import Booleans, Integers, Keys
    from exeunt.data.dataset import Dataset
    from exeunt.data.source import Source

PARTS = ("train", "fit", "calibrate", "test")


@dataclass(frozen=True, kw_only=True)
class PartRows:
    """Rows of one part: those `listed` of a file of `n_file` rows, or with `rest` all but those."""

    file: str
    n_file: int
    listed: tuple[int, ...] = field(repr=False)
    rest: bool = False

    def __len__(self) -> int:
        return self.n_file - len(self.listed) if self.rest else len(self.listed)

    def indices(self) -> Integers:
        """Return the rows in ascending order, int64."""
        listed = np.array(self.listed, dtype=np.int64)
        if not self.rest:
            return listed
        kept: Booleans = np.ones(self.n_file, dtype=np.bool_)
        kept[listed] = False
        return np.flatnonzero(kept)

    @classmethod
    def of(cls, file: str, n_file: int, rows: Integers) -> PartRows:
        """Describe `rows`, or their complement where that is shorter."""
        chosen: Booleans = np.zeros(n_file, dtype=np.bool_)
        chosen[rows] = True
        rest = 2 * int(chosen.sum()) > n_file
        listed = np.flatnonzero(~chosen if rest else chosen)
        return cls(file=file, n_file=n_file, listed=tuple(listed.tolist()), rest=rest)


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Which inputs of a source go where; JSON-able, and bound to the source by its fingerprint.

    dropped: training inputs left out because a test input is identical to them.
    matched_by: how identical inputs were found, "content" (decoded) or "stored" (bytes as they lie).
    """

    source: str
    fingerprint: str
    seed: int
    pretrained: bool
    matched_by: str
    dropped: int
    parts: Mapping[str, PartRows]

    def indices(self, part: str) -> Integers:
        """Return the rows of `part` within its file, ascending."""
        return self._part(part).indices()

    def size(self, part: str) -> int:
        """Return how many inputs `part` has."""
        return len(self._part(part))

    def select(self, source: Source, part: str) -> Dataset:
        """Return the inputs of `part`; raises InputError if `source` is not the data planned for."""
        rows = self._part(part)
        if source.fingerprint != self.fingerprint:
            raise InputError(
                f"this split was planned for {self.source} with fingerprint {self.fingerprint}, but "
                f"{source.name} has {source.fingerprint}: the data has changed, plan the split again"
            )
        return source.file(rows.file).take(rows.indices())

    def describe(self) -> str:
        """Return a small table: part, inputs, and the file they come from."""
        lines = [f"{'part':<10} {'inputs':>9}  from"]
        lines += [
            f"{part:<10} {len(rows):>9,}  {rows.file} ({rows.n_file:,})" for part, rows in self.parts.items()
        ]
        if self.dropped:
            lines.append(f"{self.dropped:,} training inputs dropped: identical to test inputs")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        parts = {
            part: {"file": r.file, "n_file": r.n_file, "rest": r.rest, "listed": list(r.listed)}
            for part, r in self.parts.items()
        }
        plain = ("source", "fingerprint", "seed", "pretrained", "matched_by", "dropped")
        return {**{name: getattr(self, name) for name in plain}, "parts": parts}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SplitPlan:
        """Rebuild from `to_dict`; raises ArtefactError if something is missing or parts overlap."""
        try:
            parts = {
                part: PartRows(**{**rows, "listed": tuple(rows["listed"])})
                for part, rows in value["parts"].items()
            }
            plan = cls(**{**value, "parts": parts})
            plan._check_disjoint()
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ArtefactError(f"this is not a split plan: {error!r}") from error
        return plan

    def _part(self, part: str) -> PartRows:
        if part not in self.parts:
            raise InputError(f"there is no part {part!r}; parts are {', '.join(self.parts)}")
        return self.parts[part]

    def _check_disjoint(self) -> None:
        for file in {rows.file for rows in self.parts.values()}:
            rows = [part.indices() for part in self.parts.values() if part.file == file]
            joined = np.concatenate(rows)
            if len(np.unique(joined)) != len(joined):
                raise ArtefactError(f"the parts of this split plan overlap in the {file} data")


MATCHES = ("auto", "content", "stored")

_SCRATCH_SHARES = {"fit": 0.04, "calibrate": 0.02, "test": 0.2}
_PRETRAINED_SHARES = {"fit": 0.3, "calibrate": 0.2}


def plan_split(
    source: Source,
    *,
    fit: float | None = None,
    calibrate: float | None = None,
    test: float | None = None,
    seed: int = 0,
    pretrained: bool = False,
    match: str = "auto",
) -> SplitPlan:
    """Plan the parts of `source`.

    fit, calibrate: whole numbers count inputs, fractions below 1 are shares of the file that they are
        drawn from. By default 4 % and 2 % of the training data, at least 500 where that is at most 15 %;
        with `pretrained`, 30 % and 20 % of the test data, the rest of which is left for the test.
    test: the same (default 20 %), for a source without test data; where there is some, it is all taken.
    pretrained: the network has learned from all of the training data already.
    match: how to find identical inputs: "content" decodes them all, "stored" compares bytes as they lie,
        "auto" decodes sources of up to 1 GiB.

    Identical inputs go to one part; training inputs identical to a test input are dropped. Raises InputError
    if the data cannot give what is asked for.
    """
    match = _match(source, match)
    drawn_from = "test" if pretrained else "train"
    if pretrained and source.test is None:
        raise InputError(
            f"{source.name} has no test data, and a pretrained network has seen its training data: add "
            "test data to fit, calibrate and test on, or say that the network has not seen these data"
        )
    if test is not None and source.test is not None:
        raise InputError(f"{source.name} has test data of its own: leave `test` out")
    keys = {f: _keys(d, match) for f in ("train", "test") if (d := getattr(source, f)) is not None}
    clean = _not_in_test(keys)
    pool = np.arange(len(source.file("test"))) if pretrained else clean
    wanted = {"fit": fit, "calibrate": calibrate}
    if source.test is None:
        wanted["test"] = test
    n_pool_file = len(source.file(drawn_from))
    counts = _counts(wanted, n_pool_file, len(pool), pretrained=pretrained)
    rng = np.random.default_rng(seed)
    drawn, rest = _draw(pool, keys[drawn_from][pool], counts, rng)
    rows = {part: (drawn_from, chosen) for part, chosen in drawn.items()}
    rows["train"] = ("train", clean) if pretrained else ("train", rest)
    if source.test is not None:
        rows["test"] = ("test", rest if pretrained else np.arange(len(source.test)))
    sizes = {file: len(k) for file, k in keys.items()}
    return SplitPlan(
        source=source.name,
        fingerprint=source.fingerprint,
        seed=seed,
        pretrained=pretrained,
        matched_by=match,
        dropped=sizes.get("train", 0) - len(clean),
        parts={
            part: PartRows.of(rows[part][0], sizes.get(rows[part][0], 0), rows[part][1]) for part in PARTS
        },
    )


def _match(source: Source, match: str) -> str:
    if match not in MATCHES:
        raise InputError(f"match must be one of {', '.join(MATCHES)}, got {match!r}")
    if match != "auto":
        return match
    small = all(data is None or data.is_small for data in (source.train, source.test))
    return "content" if small else "stored"


def _keys(data: Dataset, match: str) -> Keys:
    return data.content_id() if match == "content" else data.stored_id()


def _not_in_test(keys: Mapping[str, Keys]) -> Integers:
    """Return the training rows that no test row is identical to."""
    train = keys.get("train", np.zeros(0, dtype=np.uint64))
    if "test" not in keys:
        return np.arange(len(train))
    return np.flatnonzero(~np.isin(train, keys["test"]))


def _counts(
    wanted: Mapping[str, float | None], n_file: int, n_pool: int, *, pretrained: bool
) -> dict[str, int]:
    """Turn counts, shares and defaults into counts that leave at least one input over."""
    counts = {}
    for part, value in wanted.items():
        if value is None:
            share = (_PRETRAINED_SHARES if pretrained else _SCRATCH_SHARES)[part]
            least = 0 if pretrained or part == "test" else min(500, int(0.15 * n_file))
            counts[part] = max(round(share * n_file), least)
        else:
            counts[part] = _count(part, value, n_file)
    total = sum(counts.values())
    if total >= n_pool:
        asked = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        raise InputError(f"asked for {asked}, but only {n_pool:,} inputs are there to divide")
    return counts


def _count(part: str, value: object, n_file: int) -> int:
    """Return a count as it is, and a share as a count out of `n_file`."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    if isinstance(value, (float, np.floating)) and 0 <= value < 1:
        return round(float(value) * n_file)
    raise InputError(f"{part} must be a number of inputs (0, 1, 2, ...) or a share in [0, 1), got {value!r}")


def _draw(
    pool: Integers, keys: Keys, counts: Mapping[str, int], rng: np.random.Generator
) -> tuple[dict[str, Integers], Integers]:
    """Draw whole groups of identical inputs until each part has its count; return parts and rest.

    A group too large for what a part still lacks is passed over, so a part can end up a few inputs short
    only where all that is left are groups.
    """
    groups = list(_groups(keys, rng))
    drawn: dict[str, Integers] = {}
    for part, count in counts.items():
        taken, passed, lacking = [], [], count
        for group in groups:
            if 0 < len(group) <= lacking:
                taken.append(group)
                lacking -= len(group)
            else:
                passed.append(group)
        groups = passed
        drawn[part] = np.sort(pool[np.concatenate(taken)]) if taken else pool[:0]
    rest = np.sort(pool[np.concatenate(groups)]) if groups else pool[:0]
    return drawn, rest


def _groups(keys: Keys, rng: np.random.Generator) -> Iterator[Integers]:
    """Yield the positions of each distinct key, the keys in random order."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] + np.uint64(1)) != 0)
    pieces = np.split(order, starts[1:])
    for k in rng.permutation(len(starts)):
        yield pieces[k]
