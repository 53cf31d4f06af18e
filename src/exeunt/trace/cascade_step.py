"""The steps of a cascade: models in a row, or a tree in which each input takes a path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from exeunt.errors import InputError

NETWORK = ""
"""The model's name in a cascade of a single network."""


@dataclass(frozen=True, init=False)
class CascadeStep:
    """A model of a cascade: its name, and the exits that are run, ascending; a number stands for the first exits.

    `after`: the place of the step that an input takes before this one, -1 for none; None is the step before it in the
    cascade. Where it is given, steps are of one exit each and form a tree, in which a model may stand several times.
    """

    model: str
    exits: tuple[int, ...]
    after: int | None = None

    def __init__(self, model: str, exits: int | Sequence[int], after: int | None = None) -> None:
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "exits", tuple(range(exits)) if isinstance(exits, int) else tuple(exits))
        object.__setattr__(self, "after", after)

    @property
    def n_exits(self) -> int:
        """Number of exits that are run."""
        return len(self.exits)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """Names of the exits for tables: the model's name, if it has one, and the number of the exit in it."""
        return tuple(f"{self.model} exit {exit_}" if self.model else str(exit_) for exit_ in self.exits)

    @property
    def exit_name(self) -> str:
        """Name of its last exit in a path: the model's, with the exit's number unless it is the first."""
        return self.model if self.exits == (0,) else f"{self.model} exit {self.exits[-1]}"

    @property
    def is_prefix(self) -> bool:
        """Whether the exits are the first ones, without gaps."""
        return self.exits == tuple(range(len(self.exits)))


def is_tree(steps: Sequence[CascadeStep]) -> bool:
    """Return whether inputs take paths of their own."""
    return any(step.after is not None for step in steps)


def check_steps(steps: Sequence[CascadeStep], n_exits: int) -> None:
    """Raise InputError unless the steps, if there are any, have so many exits, and each comes after an earlier one."""
    if steps and sum(step.n_exits for step in steps) != n_exits:
        raise InputError(
            f"the steps of the cascade have {sum(step.n_exits for step in steps)} exits, not {n_exits}"
        )
    for place, step in enumerate(steps):
        if not step.exits or not all(a < b for a, b in pairwise((-1, *step.exits))):
            raise InputError(f"the exits of a step are ascending numbers, got {step.exits} of {step.model!r}")
        if not -1 <= before(steps, place) < place:
            raise InputError(
                f"step {place} of a cascade comes after an earlier one or none, got {step.after}"
            )


def path_to(steps: Sequence[CascadeStep], place: int) -> tuple[int, ...]:
    """Return the places of the steps that an input takes up to this one, in a tree."""
    path = [place]
    while (earlier := before(steps, path[0])) >= 0:
        path.insert(0, earlier)
    return tuple(path)


def before(steps: Sequence[CascadeStep], place: int) -> int:
    """Return the place of the step that an input takes before this one; -1 before the first."""
    after = steps[place].after
    return place - 1 if after is None else after


def models_in_order(cascades: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the models of all cascades, in an order that each of them keeps to.

    Raises InputError if there is none.
    """
    before: dict[str, dict[str, None]] = {}  # sets have another order in each process
    for cascade in cascades:
        for place, name in enumerate(cascade):
            before.setdefault(name, {}).update(dict.fromkeys(cascade[:place]))
    try:
        return tuple(TopologicalSorter(before).static_order())
    except CycleError:
        raise InputError(
            "the policies of a set must ask their models in one order: make them with exeunt.cascades"
        ) from None
