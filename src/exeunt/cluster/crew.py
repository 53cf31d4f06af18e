"""Workers of a cluster and the blocks they have: each block is answered, whoever dies meanwhile."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from exeunt.errors import ExeuntError, one_line

if TYPE_CHECKING:
    from exeunt.predicting.blocks import Block

__all__ = ["WINDOW", "Crew"]

WINDOW = 4  # blocks that a worker is given: some in its stream, others being read
_POLL_S = 1.0
_LATE = 4.0  # a block is given to an idle worker as well after so many times what blocks take
_HUNG, _HUNG_S = 30.0, 60.0  # likewise a worker is replaced, after so many seconds at least
_FIRST_S = 3600.0  # and after so many while no block was answered, and nothing is known of what they take
_HANGS = 3  # how often, for the same block: a job is then given up
_DEATHS = (
    20  # deaths in a row, or two of every worker, with no block answered between: a job is then given up
)


@dataclass(eq=False)
class _Model:
    """A worker, or the place of one that died. `blocks`: what it was given, by reference, and when.

    `ready`: a reference to that it runs, which may have to wait for a machine; `runs`: since when that is known.
    """

    actor: Any
    blocks: dict[Any, tuple[Block, float]] = field(default_factory=dict)
    runs: float | None = None

    def __post_init__(self) -> None:
        self.ready = self.actor.__ray_ready__.remote()


class Crew:
    """A fixed number of workers.

    `start()` starts one. `give(actor, block)` submits a block to one and returns a reference to its result.
    """

    def __init__(
        self, ray: Any, n: int, *, start: Callable[[], Any], give: Callable[[Any, Block], Any]
    ) -> None:
        self._ray, self._start, self._give = ray, start, give
        self._models = [_Model(start()) for _ in range(n)]
        self._left: deque[Block] = deque()
        self._draining = False
        self._took: deque[float] = deque(maxlen=64)  # seconds
        self._longest = 0.0  # of all, since the first of a worker wait for its network
        self._deaths = 0
        self._hangs: Counter[int] = Counter()

    def answered(self, blocks: Sequence[Block]) -> Iterator[Any]:
        """Yield what comes of each block, once, in any order.

        Raises what a worker raised on purpose, ExeuntError if workers die one after the other, or hang with a block.
        """
        self._left = deque(blocks)
        missing = {block.start for block in blocks}
        while missing:
            self._hand_out(missing)
            waited = [ref for model in self._models for ref in model.blocks]
            ready, _ = self._ray.wait(waited, num_returns=1, timeout=_POLL_S)
            for ref in ready:
                model = next(model for model in self._models if ref in model.blocks)
                block, since = model.blocks.pop(ref)
                found = self._outcome(model, block, ref)
                if found is not None and block.start in missing:
                    missing.remove(block.start)
                    self._took.append(took := time.monotonic() - since)
                    self._longest = max(self._longest, took)
                    self._deaths = 0
                    yield found

    def dismiss(self) -> None:
        """End all workers."""
        for model in self._models:
            self._ray.kill(model.actor)

    def _hand_out(self, missing: set[int]) -> None:
        self._replace_hung(missing)
        held = {block.start for model in self._models for block, _ in model.blocks.values()}
        for _ in range(WINDOW):  # one each at a time, so that all get some
            for model in self._models:
                if len(model.blocks) < WINDOW and (block := self._next(missing, held)) is not None:
                    self._to(model, block)
        if not self._left:
            if not self._draining:
                self._draining = True
                for model in self._models:
                    model.actor.drain.remote()
            self._repeat_late(missing)

    def _next(self, missing: set[int], held: set[int]) -> Block | None:
        """Take out a block that nobody has: those of the dead may be with others, too, or answered."""
        while self._left:
            block = self._left.popleft()
            if block.start in missing and block.start not in held:
                held.add(block.start)
                return block
        return None

    def _repeat_late(self, missing: set[int]) -> None:
        """Give what takes long to workers without blocks, too: whoever is first has answered it."""
        now = time.monotonic()
        times: dict[int, int] = {}
        for model in self._models:
            for block, _ in model.blocks.values():
                times[block.start] = times.get(block.start, 0) + 1
        late = [
            block
            for model in self._models
            for block, since in model.blocks.values()
            if block.start in missing
            and times[block.start] == 1
            and self._took
            and now - since > _LATE * median(self._took)
        ]
        for model, block in zip([model for model in self._models if not model.blocks], late, strict=False):
            self._to(model, block)

    def _replace_hung(self, missing: set[int]) -> None:
        """Put fresh workers in the place of those that run and do not answer."""
        most = _FIRST_S
        if self._took:
            most = max(_HUNG_S, _HUNG * median(self._took), _LATE * self._longest)
        now = time.monotonic()
        for model in list(self._models):
            if model.runs is None:
                model.runs = now if self._ray.wait([model.ready], timeout=0)[0] else None
                continue
            held = [(block, max(since, model.runs)) for block, since in model.blocks.values()]
            hung = [block for block, since in held if block.start in missing and now - since > most]
            for block in hung:
                self._hangs[block.start] += 1
                if self._hangs[block.start] > _HANGS:
                    raise ExeuntError(
                        f"the {block.n} inputs from {block.start} on hang: {_HANGS + 1} workers did not answer them in "
                        f"{most:.0f} s each; "
                        + (
                            "what was answered is kept, the same command goes on"
                            if self._took
                            else "if they only take as long, ask for smaller blocks (--block-size)"
                        )
                    )
            if hung:
                self._replace(model)

    def _to(self, model: _Model, block: Block) -> None:
        model.blocks[self._give(model.actor, block)] = block, time.monotonic()

    def _outcome(self, model: _Model, block: Block, ref: Any) -> Any:
        """Return what came of a block; None if it is to be done again."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause
            while isinstance(cause, errors.RayTaskError):  # it was raised in a reader
                cause = cause.cause
            again = errors.RayError, OSError  # a full disk, a store out of reach
            if not isinstance(cause, again):
                raise cause if isinstance(cause, ExeuntError) else error from None
            self._bury(cause, block)
        except errors.RayError as error:
            self._bury(error, block)
        self._replace(model)
        return None

    def _bury(self, error: Exception, block: Block) -> None:
        self._left.append(block)  # others are done first: it may be the block's fault
        self._deaths += 1
        if self._deaths >= max(_DEATHS, 2 * len(self._models)):  # one machine takes many along
            raise ExeuntError(
                f"workers died {self._deaths} times and answered nothing between: "
                f"{one_line(error)}; what was answered is kept, the same command goes on"
            )

    def _replace(self, model: _Model) -> None:
        """Put a worker in the place of one that died; what it had is done by others."""
        self._left.extendleft(block for block, _ in model.blocks.values())
        self._ray.kill(model.actor)  # it may only be out of reach
        fresh = self._models[self._models.index(model)] = _Model(self._start())
        if self._draining:
            fresh.actor.drain.remote()
