"""What `exeunt predict` may spend on the answers of services and functions: its options, its ledger and its job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from exeunt._support.text import counted
from exeunt.cli.options import STANDARD, changed, options_under
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.data import Dataset
    from exeunt.jobs.predict import PredictJob
    from exeunt.ledger import Ledger
    from exeunt.live import LiveCascade
    from exeunt.runs.folder import RunFolder

live_option = options_under("Services and functions")


@dataclass(frozen=True, kw_only=True)
class Total:
    """What may be spent, and where it is counted."""

    total: str | None = live_option(
        "What all answers may cost together, such as '5 usd'. Of policies for several budgets, what is left "
        "decides which one answers the next input, so that the total lasts; RUN@50% keeps to one."
    )
    ledger: str | None = live_option(
        "Where what is spent is counted: a file, or a PostgreSQL database that several machines share, such as "
        "postgresql://user@host/database. Default: a file beside --out."
    )


class Asked(NamedTuple):
    """The live models that answer for a run, and what opens the ledger that pays for them.

    Where the run has several policies to choose from, the total is paced.
    """

    run: RunFolder
    live: LiveCascade
    money: Callable[[], Ledger]
    total: str
    models: Path

    @property
    def job(self) -> Callable[..., PredictJob]:
        """Makes the job."""
        from exeunt.jobs.predict_live import LiveJob, PacedJob
        from exeunt.policy import PolicySet

        make = partial(PacedJob, policies=PolicySet(self.run.policies)) if self.paced else LiveJob
        return partial(make, live=self.live, money=self.money, models=self.models)

    @property
    def paced(self) -> str:
        """Which policies take turns so that the total lasts, in a sentence; "" for one policy."""
        from exeunt.runs.saved_policies import named_by_budget

        *others, largest = named_by_budget(self.run.policies)
        if not others:
            return ""
        return (
            f"paced, so that {self.total} last for all inputs: what is left decides whether the policy for "
            f"{', '.join(others)} or {largest} answers the next one; to keep to one of them give "
            f"{quote(f'{self.run.path}@{largest}')} as the run"
        )

    @property
    def paid(self) -> str:
        """What was spent, also on attempts of which nothing came back, and which models failed."""
        from exeunt.costs.budget_text import amount_text

        failed = {name: model.counts["failed"] for name, model in self.live.models.items()}
        named = ", ".join(f"{name} to {counted(n, 'input')}" for name, n in failed.items() if n)
        ledger = self.live.ledger
        spent = f"{amount_text(0.0 if ledger is None else ledger.spent, 'usd')} of {self.total} are spent"
        if lost := [] if ledger is None else ledger.unsettled():
            amount = amount_text(sum(attempt.maximum for attempt in lost), "usd")
            spent += f", {amount} of it on {counted(len(lost), 'attempt')} of which nothing came back"
        return f"{spent}; no answer of {named}" if named else spent


def asked_models(run: RunFolder, data: Dataset, models: Path | None, money: Total, out: str) -> Asked | None:
    """Open the live models of a run, with the money for an answer to every input; None for a run of networks."""
    total, ledger = money.total, money.ledger
    if not run.kind.is_paid:
        if other := changed(money) or "--models" * (models is not None):
            raise InputError(
                f"{other}: such options are for runs of services and functions, and {run.path} computes its answers "
                "here: leave them out"
            )
        return None
    if models is None or total is None:
        raise InputError(
            f"{run.path} asks services or functions: name their file with --models models.yaml, and what all answers "
            "may cost with --total '5 usd'"
        )
    from exeunt._support.paths import place
    from exeunt._support.sealed_json import content_digest
    from exeunt.ledger import Ledger
    from exeunt.live.live_model import check_unit
    from exeunt.live.live_run import live_cascade
    from exeunt.live.models_file import read_models

    prints = out == STANDARD
    if ledger is not None and prints:
        raise InputError("what --ledger counts is spent on the answers in a file: name one with --out")
    file = None if prints else f"{out}.money.db"
    name = f"answers {run.digest[:8]}{data.fingerprint[:8]}"
    if ledger is not None:  # which may count what is spent on others, too
        file, name = ledger, f"{name} {content_digest(str(place(out).absolute()))[:8]}"
    options: dict[str, Any] = {"inputs": len(data), "file": file, "durability": "full", "name": name}
    check_unit(Ledger(total=total))
    pays = partial(Ledger, total=total, **options)
    live = live_cascade(run, read_models(models))
    return Asked(run, live, pays, total, models.absolute())
