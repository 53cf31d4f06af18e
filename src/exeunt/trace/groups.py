"""Rows that come in groups, such as the frames of a video: rows of a group are alike, and groups are exchangeable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers, Keys
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.trace.fields import id_keys

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_NOTICED, _ALIKE = 3.09, 0.1
"""Standard errors (p = 0.001) and correlation from which on neighbouring rows are said to be alike."""
_ENOUGH = 100_000
"""Of larger traces so many rows, the first, are looked at: ranking millions takes seconds."""
GROUP_OF = {"input": "group", "token": "prompt"}
"""What a group is called, by what its rows are."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each of n rows: the document of a token, the video of a frame, the user of a request.

    Parts, tests and intervals then draw and count groups. `key` (n,): texts or whole numbers, equal within a group.
    `rows_per_group`: guarantees are about the mean over groups of their means (1, the default), or about the mean over
    rows, in which a row of a larger group than this weighs rows_per_group / size.

    Raises InputError for a `rows_per_group` that is no whole number of 1 or more.
    """

    key: Keys
    rows_per_group: int = 1

    def __post_init__(self) -> None:
        limit = self.rows_per_group
        if not isinstance(limit, int | np.integer) or limit < 1:
            raise InputError(f"rows_per_group must be a whole number of 1 or more, got {limit!r}")
        if np.ndim(self.key) == 0:
            raise InputError(
                f"groups must hold a name for each row, got {self.key!r}: from_table alone takes columns"
            )
        key = id_keys(self.key, np.size(self.key), "groups")
        self.__dict__.update(key=arrays.frozen(key), rows_per_group=int(limit))

    @classmethod
    def checked(cls, groups: Groups | ArrayLike | None, n: int) -> Groups | None:
        """Return the groups of n rows, made from their names if need be. Raises InputError for another number."""
        checked = groups if groups is None or isinstance(groups, Groups) else cls(groups)  # type: ignore[arg-type]
        if checked is not None:
            arrays.check_length(checked.key, "groups", n)
        return checked

    @classmethod
    def joined(cls, parts: Sequence[Groups | None]) -> Groups | None:
        """Return the groups of the rows of several parts. Raises InputError if they are grouped in different ways."""
        ways = {"none" if part is None else f"rows_per_group={part.rows_per_group}" for part in parts}
        if len(ways) > 1:
            raise InputError(
                f"either all traces have groups or none, of one rows_per_group, got {', '.join(sorted(ways))}"
            )
        known = [part for part in parts if part is not None]
        return cls(np.concatenate([part.key for part in known]), known[0].rows_per_group) if known else None

    @cached_property
    def _found(self) -> tuple[Keys, Integers]:
        names, first, index = np.unique(self.key, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return names[order], np.argsort(order)[index]

    @property
    def names(self) -> Keys:
        """The keys of the groups, (g,), in the order in which they appear."""
        return self._found[0]

    @property
    def index(self) -> Integers:
        """The position in `names` of the group of each row, (n,)."""
        return self._found[1]

    @property
    def n(self) -> int:
        """Number of groups g."""
        return len(self.names)

    @cached_property
    def sizes(self) -> Integers:
        """Number of rows of each group, (g,)."""
        return np.bincount(self.index)

    @property
    def weight(self) -> Floats:
        """The weight of each group in a mean, (g,), at most 1."""
        return np.minimum(1.0, self.sizes / self.rows_per_group)

    @property
    def row_weight(self) -> Floats:
        """The weight of each row in a mean, (n,)."""
        return np.asarray((self.weight / self.sizes)[self.index])

    def means(self, values: Any) -> Floats:
        """Return the mean of each group's values, (g,)."""
        return np.asarray(np.bincount(self.index, weights=values) / self.sizes)

    def rows(self, groups: Integers) -> Integers:
        """Return the rows of these groups, one group after the other."""
        ends = np.cumsum(self.sizes)
        by_group = np.split(np.argsort(self.index, kind="stable"), ends[:-1])
        return np.concatenate([by_group[group] for group in groups.tolist()] or [np.empty(0, np.int64)])

    def take(self, rows: Any) -> Groups:
        """Return the groups of these rows."""
        return Groups(self.key[rows], self.rows_per_group)


def neighbours_alike(scores: Floats, classes: Integers, id_: Keys) -> float:
    """Return the correlation of neighbouring rows, if they are much more alike than others, else 0.

    `scores` (n, m): a row's value is the mean of its ranks over the exits, less the mean of its class (n,), so a file
    that is sorted by class is no alarm. Pairs of copies (equal ids) are left out. In an exchangeable order the products
    of neighbours then have mean 0 or less. Alike are rows with a p-value below 0.001 and a correlation of 0.1 or more,
    since a weaker one in a large file hardly matters.
    """
    from scipy.stats import rankdata

    scores, classes, id_ = scores[:_ENOUGH], classes[:_ENOUGH], id_[:_ENOUGH]
    ranks = rankdata(scores, axis=0).mean(axis=1)
    _, of = np.unique(classes, return_inverse=True)
    ranks -= (np.bincount(of, weights=ranks) / np.bincount(of))[of]
    products = (ranks[1:] * ranks[:-1])[id_[1:] != id_[:-1]]
    if products.sum() <= _NOTICED * float(np.sum(products**2)) ** 0.5:
        return 0.0
    correlation = float(products.mean() / ranks.var())
    return correlation if correlation >= _ALIKE else 0.0


def mean(values: Any, groups: Groups | None) -> Any:
    """Return the mean over the rows of values (n, ...): with groups the mean that guarantees are about."""
    return values.mean(axis=0) if groups is None else np.average(values, axis=0, weights=groups.row_weight)


def per_unit(values: Floats, groups: Groups | None, bound: float) -> Floats:
    """Return one value per exchangeable unit, whose mean is within `bound` where `mean` of the values (n,) is.

    Without groups, the values. A group's is v * its mean + (1 - v) * bound, with v = min(1, size / rows_per_group): the
    mean of these is at most the bound if and only if E[min(size, rows_per_group) * (group's mean - bound)] <= 0.
    """
    return values if groups is None else groups.weight * groups.means(values) + (1 - groups.weight) * bound


def n_units(n: int, groups: Groups | None) -> int:
    """Return how many exchangeable units n rows are: the groups, or without groups the rows."""
    return n if groups is None else groups.n


def mean_weight(groups: Groups | None) -> float:
    """Return the mean weight of a unit: `per_unit` is closer to its bound by this factor than means are."""
    return 1.0 if groups is None else float(groups.weight.mean())


def n_groups(groups: Groups | None) -> int | None:
    """Return the number of groups, None without groups."""
    return None if groups is None else groups.n


def counts_of(groups: Groups | None) -> dict[str, Any]:
    """Return what certificates and results keep of groups, by name: nothing without groups."""
    return {} if groups is None else {"n_groups": groups.n, "rows_per_group": groups.rows_per_group}


def units_text(n: int, n_groups: int | None, kind: str = "", row: str = "input") -> str:
    """Return how many rows there are, or groups of them: "120 calibration groups (3,400 inputs)"."""
    if n_groups is None:
        return counted(n, f"{kind} {row}".strip())
    return f"{counted(n_groups, f'{kind} {GROUP_OF[row]}'.strip())} ({counted(n, row)})"


def mean_text(quantity: str, rows_per_group: int | None, row: str = "input") -> str:
    """Return which mean of a quantity is meant, None being that over rows: "mean over groups of their mean cost"."""
    if rows_per_group is None:
        return quantity
    how = weights_text(rows_per_group, row)
    return f"{how} of their {quantity}" if rows_per_group == 1 else f"{quantity}, where {how},"


def weights_text(rows_per_group: int, row: str = "input") -> str:
    """Return how groups weigh in a mean."""
    if rows_per_group == 1:
        return f"mean over {GROUP_OF[row]}s"
    return f"{row}s of {GROUP_OF[row]}s of more than {rows_per_group:,} weigh {rows_per_group:,}/size"
