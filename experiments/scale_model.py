"""A model of a job of many inputs on many machines: how long it takes, what it costs, and what limits it.

What an input, a block and a job take is measured where the model is fitted (scale.py). The cores of a machine answer
blocks side by side; the driver hands them out and takes the answers. A machine that vanishes loses the blocks it had.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3600.0


@dataclass(frozen=True)
class Seconds:
    """What the parts of a job take, in seconds of one core.

    `decode`, `network`, `moved`: of an input: read and prepared, answered, and sent between processes. `block`: of a
    block, besides its inputs. `driver`: of a block on the driver, which does one after the other. `start`: before the
    first block is begun. `row_bytes`: of an input in the store.
    """

    decode: float
    network: float
    moved: float
    block: float
    driver: float
    start: float
    row_bytes: float

    def of_block(self, rows: float) -> float:
        """Return the core seconds of a block of so many inputs."""
        return rows * (self.decode + self.network + self.moved) + self.block


@dataclass(frozen=True)
class Machines:
    """So many machines alike. `bandwidth`: bytes a second between the store and each of them."""

    n: int
    cores: int
    bandwidth: float = np.inf


def limits(parts: Seconds, machines: Machines, rows: float) -> dict[str, float]:
    """Return how many inputs a second each part of a job could do at most, in blocks of `rows` inputs."""
    return {
        "cores": machines.n * machines.cores * rows / parts.of_block(rows),
        "links to the store": machines.n * machines.bandwidth / parts.row_bytes,
        "driver": rows / parts.driver,
    }


def job_seconds(parts: Seconds, machines: Machines, inputs: float, rows: float) -> float:
    """Return the seconds that a job takes if nothing vanishes: start, the slowest part, and the last blocks.

    In the end cores wait for one another, on average for half of a block; and a block takes a core its time.
    """
    rows = min(rows, inputs)
    steady = inputs / min(limits(parts, machines, rows).values())
    return parts.start + max(steady + parts.of_block(rows) / 2, parts.of_block(rows))


def simulated(
    block_s: float,
    blocks: int,
    machines: int,
    *,
    window: int,
    driver_s: float = 0.0,
    lost_per_hour: float = 0.0,
    replaced_s: float = 0.0,
    seed: int = 0,
) -> tuple[float, int]:
    """Return the seconds until all blocks are answered, and how many were begun and lost on the way.

    A machine here has one core, on which a block takes `block_s` seconds, and holds `window` blocks. It vanishes after
    an exponential time, `lost_per_hour` times in an hour on average; what it held is done again, and `replaced_s` later
    another stands in its place. The driver takes one answered block every `driver_s` seconds.
    """
    simulation = _Simulation(
        block_s, blocks, machines, window, driver_s, lost_per_hour, replaced_s, np.random.default_rng(seed)
    )
    return simulation.run()


class _Simulation:
    """Machines, the blocks that each has, and what happens next: (seconds, number, what, machine, its life)."""

    def __init__(
        self,
        block_s: float,
        blocks: int,
        machines: int,
        window: int,
        driver_s: float,
        lost_per_hour: float,
        replaced_s: float,
        rng: np.random.Generator,
    ) -> None:
        self.block_s, self.driver_s, self.replaced_s = block_s, driver_s, replaced_s
        self.window, self.rng, self.lost_per_hour = window, rng, lost_per_hour
        self.blocks = self.left = blocks
        self.now, self.driver_free, self.done, self.lost = 0.0, 0.0, 0, 0
        self.held, self.life, self.alive = [0] * machines, [0] * machines, [True] * machines
        self.busy = [False] * machines
        self.order, self.events = count(), []

    def run(self) -> tuple[float, int]:
        for machine in range(len(self.held)):
            self.may_die(machine)
        for _ in range(self.window):  # one each at a time, so that all get some
            for machine in range(len(self.held)):
                self.give(machine)
        while self.done < self.blocks:
            self.now, _, what, machine, life = heapq.heappop(self.events)
            what(machine, life)
        return self.now, self.lost

    def after(self, seconds: float, what: Callable[[int, int], None], machine: int) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), what, machine, self.life[machine]))

    def give(self, machine: int) -> None:
        if self.left and self.alive[machine]:
            self.left -= 1
            self.held[machine] += 1
            self.begin(machine)

    def begin(self, machine: int) -> None:
        if self.held[machine] and not self.busy[machine]:
            self.busy[machine] = True
            self.after(self.block_s, self.answered, machine)

    def answered(self, machine: int, life: int) -> None:
        if life != self.life[machine]:
            return
        self.busy[machine] = False
        self.held[machine] -= 1
        self.begin(machine)
        self.driver_free = max(self.driver_free, self.now) + self.driver_s
        self.after(self.driver_free - self.now, self.taken, machine)

    def taken(self, machine: int, life: int) -> None:
        """The driver has an answered block, and hands out another."""
        self.done += 1
        if life == self.life[machine]:
            self.give(machine)

    def may_die(self, machine: int) -> None:
        if self.lost_per_hour:
            self.after(self.rng.exponential(HOUR / self.lost_per_hour), self.dies, machine)

    def dies(self, machine: int, _life: int) -> None:
        self.lost, self.left = self.lost + self.held[machine], self.left + self.held[machine]
        self.held[machine], self.busy[machine], self.alive[machine] = 0, False, False
        self.life[machine] += 1
        self.after(self.replaced_s, self.back, machine)
        for other, held in enumerate(self.held):
            if not held:
                self.give(other)

    def back(self, machine: int, _life: int) -> None:
        self.alive[machine] = True
        self.may_die(machine)
        for _ in range(self.window):
            self.give(machine)
