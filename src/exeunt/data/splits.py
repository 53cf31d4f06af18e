"""Splitting data into four parts without overlap: to train, to fit a policy, to calibrate it, to test it.

Guarantees hold only on inputs that the network has not learned from. A network trained here leaves `fit` and
`calibrate` out of its training data. A pretrained network has seen all training data, so both are drawn from the test
data. Rows are drawn, and rows of one data set may be identical: they come so among future inputs. Only training inputs
identical to those of test data of their own are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from exeunt._support.arrays import Integers, Keys, integers
from exeunt._support.checked_types import check_kind
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.trace.splitting import shuffled

if TYPE_CHECKING:
    from exeunt.data.dataset import Dataset
    from exeunt.data.source import DataSource

PARTS = ("train", "fit", "calibrate", "test")


@dataclass(frozen=True, kw_only=True)
class PartRows:
    """The rows of one part.

    dataset: "train", "test" or "validation", the data set that the part is drawn from.
    n_dataset: number of its rows.
    listed: the rows, ascending; with `all_but`, the rows of the data set that are not in the part.
    """

    dataset: str
    n_dataset: int
    listed: tuple[int, ...] = field(repr=False)
    all_but: bool = False

    def __len__(self) -> int:
        return self.n_dataset - len(self.listed) if self.all_but else len(self.listed)

    def indices(self) -> Integers:
        """Return the rows in ascending order, int64."""
        listed = np.array(self.listed, dtype=np.int64)
        return np.delete(np.arange(self.n_dataset), listed) if self.all_but else listed

    @classmethod
    def of(cls, dataset: str, n_dataset: int, rows: Integers) -> PartRows:
        """Return ascending `rows` as they are stored: listed, or all but those listed if that is shorter."""
        all_but = 2 * len(rows) > n_dataset
        listed = np.delete(np.arange(n_dataset), rows) if all_but else rows
        return cls(dataset=dataset, n_dataset=n_dataset, listed=tuple(listed.tolist()), all_but=all_but)


class _Part(TypedDict):
    file: str
    n_file: int
    rest: bool
    listed: list[Any]


class _Plan(TypedDict):
    source: str
    fingerprint: str
    seed: int
    pretrained: bool
    matched_by: str
    dropped: int
    parts: Mapping[str, _Part]


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Which inputs of a source belong to which part. A plan is bound to its source by the fingerprint.

    dropped: number of training inputs left out because a test input is identical to them.
    matched_by: how identical inputs were found: "content" (decoded) or "stored" (bytes as stored).
    left_alone: a sentence about validation inputs that are in no part.
    """

    source: str
    fingerprint: str
    seed: int
    pretrained: bool
    matched_by: str
    dropped: int
    parts: Mapping[str, PartRows]
    left_alone: str = ""

    def indices(self, part: str) -> Integers:
        """Return the rows of `part` within its data set, ascending."""
        return self._part(part).indices()

    def size(self, part: str) -> int:
        """Return the number of inputs of `part`."""
        return len(self._part(part))

    def select(self, source: DataSource, part: str) -> Dataset:
        """Return the inputs of `part`. Raises InputError if `source` is not the data that the plan was made for."""
        rows = self._part(part)
        if all(part.dataset != "validation" for part in self.parts.values()):
            source = replace(source, validation=None)
        if source.fingerprint != self.fingerprint:
            raise InputError(
                f"this split was planned for {self.source} with fingerprint {self.fingerprint}, but "
                f"{source.name} has {source.fingerprint}: the data has changed, plan the split again"
            )
        return source.dataset(rows.dataset).take(rows.indices())

    def check_every_part(self) -> None:
        """Raise InputError if a part has no inputs: recording would fail, after the training."""
        if empty := [part for part in self.parts if self.size(part) == 0]:
            raise InputError(
                f"there are no inputs for {' and '.join(empty)}: every part needs some. Parts as planned:\n"
                f"{self.describe()}\ngive more data, or other counts or shares (fit, calibrate, test)"
            )

    def describe(self) -> str:
        """Return a table of the parts: number of inputs, and the data set they are drawn from."""
        lines = [f"{'part':<10} {'inputs':>9}  from"]
        lines += [
            f"{part:<10} {len(rows):>9,}  {rows.dataset} ({rows.n_dataset:,})"
            for part, rows in self.parts.items()
        ]
        if self.dropped:
            lines.append(
                f"{counted(self.dropped, 'training input')} dropped: identical to test inputs. Guarantees are about "
                f"inputs like those of the {self.parts['calibrate'].dataset} data"
            )
        return "\n".join([*lines, self.left_alone] if self.left_alone else lines)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        parts = {
            part: {"file": r.dataset, "n_file": r.n_dataset, "rest": r.all_but, "listed": list(r.listed)}
            for part, r in self.parts.items()
        }
        plain = ["source", "fingerprint", "seed", "pretrained", "matched_by", "dropped"]
        plain += ["left_alone"] if self.left_alone else []
        return {**{name: getattr(self, name) for name in plain}, "parts": parts}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> SplitPlan:
        """Rebuild from `to_dict`. Raises InputError for anything else."""
        check_kind(body, _Plan, "split")
        parts = {
            part: PartRows(
                dataset=r["file"], n_dataset=r["n_file"], all_but=r["rest"], listed=tuple(r["listed"])
            )
            for part, r in body["parts"].items()
        }
        for part, rows in parts.items():
            listed = integers(rows.listed, f"split.parts.{part}.listed", ndim=1)
            if (np.diff([-1, *listed, rows.n_dataset]) < 1).any():
                raise InputError(f"split.parts.{part} must list ascending rows below {rows.n_dataset}")
        return cls(**{**body, "parts": parts})

    def _part(self, part: str) -> PartRows:
        if part not in self.parts:
            raise InputError(f"there is no part {part!r}; parts are {', '.join(self.parts)}")
        return self.parts[part]


_SCRATCH_SHARES = {"fit": 0.04, "calibrate": 0.02, "test": 0.2}
_PRETRAINED_SHARES = {"fit": 0.3, "calibrate": 0.2}
_FIT_OF_VALIDATION = 0.6
_ENOUGH, _ENOUGH_SHARE = 1000, 0.3
"""So many validation inputs, or this share of the other data, whichever is less, are enough to fit and calibrate on."""


def plan_split(
    source: DataSource,
    *,
    fit: float | None = None,
    calibrate: float | None = None,
    test: float | None = None,
    seed: int = 0,
    pretrained: bool = False,
) -> SplitPlan:
    """Plan the parts of `source`.

    fit, calibrate: a whole number of inputs, or below 1 a share of the data set they are drawn from. By default 4%
        and 2% of the training data, but at least 500 inputs, or 15% of them if that is less; with `pretrained`
        30% and 20% of the test data, the rest of which is the test part.
    test: the same (default 20%), for a source without test data.
    pretrained: the network has already learned from all training data.

    Where there are validation data, fit and calibrate are drawn from them, by default all of them, 60% and 40%.
    Rows are drawn at random. Where there are test data of their own, training inputs identical to a test input are
    dropped. Data of up to 1 GiB are decoded to find them, larger data are compared as stored. Raises InputError if the
    data have too few inputs, or none of the kind that is needed.
    """
    _check_test_data(source, test, pretrained=pretrained)
    drawn_from, wanted = "test" if pretrained else "train", {"fit": fit, "calibrate": calibrate}
    source.dataset(drawn_from)  # raises where there are none
    rest_goes_to, left_alone = "", ""
    if source.validation is not None:
        n = len(source.validation)
        if n < (least := _least_of_validation(source, wanted)):
            left_alone = (
                f"{counted(n, 'validation input')} left alone: to fit and calibrate on them takes {least:,}"
            )
            source = replace(source, validation=None)
        else:
            drawn_from = "validation"
            wanted, rest_goes_to = _of_validation(fit, calibrate, n)
    by_content = all(data.is_small for data in source.datasets.values())
    keys = {
        name: data.content_keys() if by_content else data.stored_keys()
        for name, data in source.datasets.items()
    }
    none: Keys = np.zeros(0, dtype=np.uint64)
    held_out = np.concatenate([keys.get(name, none) for name in ("test", "validation")])
    clean = np.flatnonzero(~np.isin(keys.get("train", none), held_out))
    draws = {drawn_from: wanted}
    if source.test is None:
        draws.setdefault("train", {})["test"] = test
    rows, rest = dict[str, tuple[str, Integers]](), dict[str, Integers]()
    for name, parts in draws.items():
        counts = _counts(parts, len(keys[name]), pretrained=name != "train")
        drawn, rest[name] = _draw(keys[name], counts, np.random.default_rng(seed))
        rows |= {part: (name, chosen) for part, chosen in drawn.items()}
    rows["train"] = ("train", np.intersect1d(rest.get("train", clean), clean))
    if source.test is not None:
        rows["test"] = ("test", rest.get("test", np.arange(len(source.test))))
    if rest_goes_to:
        rows[rest_goes_to] = ("validation", rest["validation"])
    elif drawn_from == "validation":
        unused = counted(len(rest["validation"]), "validation input")
        left_alone = f"{unused} left alone: more than --fit and --calibrate ask for"
    sizes = {name: len(k) for name, k in keys.items()}
    return SplitPlan(
        source=source.name,
        fingerprint=source.fingerprint,
        seed=seed,
        pretrained=pretrained,
        matched_by="content" if by_content else "stored",
        dropped=sizes.get("train", 0) - sum(len(of) for name, of in rows.values() if name == "train"),
        parts={
            part: PartRows.of(rows[part][0], sizes.get(rows[part][0], 0), rows[part][1]) for part in PARTS
        },
        left_alone=left_alone,
    )


def _check_test_data(source: DataSource, test: float | None, *, pretrained: bool) -> None:
    """Raise InputError for a pretrained network without test data, and for a test part where there are test data."""
    if pretrained and source.test is None:
        raise InputError(
            f"{source.name} has no test data, and a pretrained network has seen its training data: add "
            "test data to fit, calibrate and test on, or say that the network has not seen these data (--unseen)"
        )
    if test is not None and source.test is not None:
        raise InputError(f"{source.name} has test data of its own: leave `test` out")


def _least_of_validation(source: DataSource, wanted: Mapping[str, float | None]) -> int:
    """Return how many validation inputs are enough to fit and calibrate on: as many as would be drawn from other data.

    Those that were asked for are enough however few they are.
    """
    if source.asked_for:
        return 0
    others = replace(source, validation=None).datasets.values()
    counts = [count for count in wanted.values() if count is not None and count >= 1]
    return int(sum(counts)) or min(_ENOUGH, round(_ENOUGH_SHARE * max(map(len, others))))


def _of_validation(fit: float | None, calibrate: float | None, n: int) -> tuple[dict[str, float | None], str]:
    """Return what is drawn from n validation inputs, and the part that gets the rest of them, or "".

    Without `fit` or `calibrate` one part gets what the other leaves, and without both the fit part gets 60%.
    """
    if fit is None and calibrate is None:
        fit = _FIT_OF_VALIDATION
    if fit and calibrate and fit >= 1 and fit + calibrate == n:
        calibrate = None  # all that is left
    rest_goes_to = "fit" if fit is None else "calibrate" if calibrate is None else ""
    return {"fit": fit or 0, "calibrate": calibrate or 0}, rest_goes_to


def _counts(wanted: Mapping[str, float | None], n_dataset: int, *, pretrained: bool) -> dict[str, int]:
    """Return the number of inputs of each part. Raises InputError unless at least one input is left for the rest."""
    if n_dataset == 0:
        raise InputError("there are no inputs to divide into parts: the data are empty")
    counts = {}
    for part, size in wanted.items():
        if size is None:
            share = (_PRETRAINED_SHARES if pretrained else _SCRATCH_SHARES)[part]
            least = 0 if pretrained or part == "test" else min(500, int(0.15 * n_dataset))
            counts[part] = max(round(share * n_dataset), least)
        else:
            counts[part] = _count(part, size, n_dataset)
    total = sum(counts.values())
    if total >= n_dataset:
        sizes = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        raise InputError(f"asked for {sizes}, but there are only {counted(n_dataset, 'input')} to divide")
    return counts


def _count(part: str, size: object, n_dataset: int) -> int:
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool) and size >= 0:
        return int(size)
    if isinstance(size, (float, np.floating)) and 0 <= size < 1:
        return round(float(size) * n_dataset)
    raise InputError(f"{part} must be a number of inputs (0, 1, 2, ...) or a share in [0, 1), got {size!r}")


def _draw(
    keys: Keys, counts: Mapping[str, int], rng: np.random.Generator
) -> tuple[dict[str, Integers], Integers]:
    """Draw rows at random until each part has its count; return the parts and the rest, ascending."""
    rows = shuffled(keys, rng.permutation(len(keys)))
    *drawn, rest = np.split(rows, np.cumsum(list(counts.values())))
    return {part: np.sort(rows) for part, rows in zip(counts, drawn, strict=True)}, np.sort(rest)
