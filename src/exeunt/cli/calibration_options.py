"""The options of `exeunt calibrate`: what shall be guaranteed, and how the policy answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from exeunt.cli.options import delta_or_none, options_under, share
from exeunt.errors import InputError, UnitError

if TYPE_CHECKING:
    from exeunt.policy import Policy

_guarantee, _policy = options_under("What is guaranteed"), options_under("The policy")
_further = options_under("Further guarantees, and several budgets")


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What the policy shall keep."""

    budget: str | None = _guarantee(
        "Mean cost per input: a share of the full network's (50%), a quantity (30MMACs, 4ms) or a price ('2 usd per "
        "10k')."
    )
    max_loss: str | None = _guarantee(
        "Accuracy that may be lost against the full network, or the most accurate model of a cascade, such as 1%: "
        "chooses the cheapest policy that provably loses no more. With --budget, both are guaranteed."
    )
    agree: str | None = _guarantee(
        "Share of answers that must be those of the full network, or the most expensive model of a cascade, such as "
        "98%: chooses the cheapest policy that provably keeps it. Needs no labels. With --budget, both are guaranteed."
    )
    max_early_loss: str | None = _further(
        "Accuracy that the answers which come early may lose, on average over them, such as 10%: those before the last "
        "exit, or without the reference of a cascade. Alone, or with --max-loss or --agree and --budget: then all hold."
    )
    max_early_worse: str | None = _further(
        "Share of the answers that come early which may be worse than the full network's, or the reference's, such as "
        "10%. Goes with all others."
    )
    tail: tuple[str, str] | None = _further(
        "Share of the inputs that may cost more than an amount: '0.01 usd' 1%. Beside a limit of the loss.",
        metavar="COST SHARE",
    )
    reference: str | None = _further(
        "The model of a cascade to agree with (--agree), or to lose quality against (--max-loss, --max-early-loss, "
        "--max-early-worse)."
    )
    per: str = _guarantee(
        "With --agree, of a language model: what must agree, token (after the same tokens) or answer (all of its "
        "tokens).",
        default="token",
    )
    budgets: str | None = _further(
        "Several budgets, as a range first:last:step (20%:95%:5%) or a list (30%,50%): makes one policy each, in one "
        "file. Choose among them by time, price or load, not by the inputs to be answered."
    )
    jointly: bool = _further(
        "With --budgets: all guarantees hold together, not each on its own. The budget may then be changed while "
        "serving, by anything but the inputs to be answered.",
        default=False,
    )
    delta: str | None = _guarantee(
        "Largest probability with which the guarantee may be broken; 'none' keeps the budget only on average.",
        show_default="0.05; none for a budget with --calibration marginal, which certifies nothing",
    )

    @property
    def amounts(self) -> list[str | float]:
        """The budgets asked for; none if only a loss is given."""
        from exeunt.costs.budget_text import budget_grid

        if self.budgets is not None:
            return [*budget_grid(self.budgets)]
        return [] if self.budget is None else [self.budget]

    @property
    def loss(self) -> float | None:
        """The largest loss of accuracy or of agreement; None if none is asked for. Raises InputError for others."""
        if self.agree is not None:
            return round(1 - share(self.agree, "--agree", example="98%", or_one=True), 12)
        return None if self.max_loss is None else share(self.max_loss, "max-loss", or_zero=True)

    @property
    def promises(self) -> dict[str, Any]:
        """What is promised of answers and of single costs, as `cheapest` takes it. Raises InputError for no shares."""
        early = {
            name: share(text, f"--{name.replace('_', '-')}", example="10%")
            for name in ("max_early_loss", "max_early_worse")
            if (text := getattr(self, name)) is not None
        }
        tail = (
            {}
            if self.tail is None
            else {"max_tail": (self.tail[0], share(self.tail[1], "the share of --tail"))}
        )
        return {"max_loss": self.loss, **early, **tail}

    @property
    def of_answers(self) -> str:
        """The options that limit what answers lose, as people write them; "" for none."""
        names = ("agree", "max_loss", "max_early_loss", "max_early_worse")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        return " and ".join(given)

    def checked_delta(self, *, certifies: bool) -> float | None:
        """Return the probability with which the guarantee may be broken; None without a guarantee.

        `certifies`: the calibration can certify a budget. Raises InputError for options that ask for nothing, or cannot
        be combined.
        """
        # A guarantee of a loss is tested, whatever the calibration.
        if self.agree is not None and self.max_loss is not None:
            raise InputError("--agree and --max-loss are two guarantees of answers: give one of them")
        answers = self.of_answers
        if self.tail is not None and not answers:
            raise InputError(
                "--tail alone is kept by answering everything at the cheapest exit: limit what is lost as well, such "
                "as with --max-loss 1%"
            )
        if self.reference is not None and not answers:
            raise InputError(
                "--reference is the model that answers are measured against: give --agree or --max-loss"
            )
        usual = "0.05" if certifies or answers else "none"
        delta = delta_or_none(usual if self.delta is None else self.delta)
        if self.budget is None and not answers and self.budgets is None:
            raise InputError(
                "give a budget, a loss or an agreement: --budget 50%, --max-loss 1%, --agree 98%, or --budgets "
                "20%:95%:5%"
            )
        if self.budgets is not None and (self.budget is not None or answers):
            raise InputError(
                f"--budgets goes with neither --budget nor {answers or '--max-loss'}: calibrate twice for both"
            )
        if self.jointly and self.budgets is None:
            raise InputError("--jointly is about the guarantees of several budgets: give them with --budgets")
        if delta is None and (answers or self.jointly):
            verbs = "are guarantees and need" if " and " in answers else "is a guarantee and needs"
            raise InputError(f"{answers or '--jointly'} {verbs} a --delta")
        return delta


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the policy answers."""

    policy: str = _policy(
        "Kind of policy: auto (it mixes the others), eero, stopping, learned_correctness, optimised, common_threshold, "
        "risk_controlled; of a network with a gate also one_look, which chooses an input's exit there; of live models "
        "also router and cascade_router, which choose whom to ask. To compare with, "
        "baselines of the literature: msdnet, predictive_exit, patience, confident_patience, eco_m2f, genetic, "
        "random_routing.",
        default="auto",
    )
    score: str | None = _policy(
        "Confidence that ranks inputs: margin, max_probability or entropy; of masks also low_margin. Default: the "
        "policy's own."
    )
    answer: str | None = _policy(
        "What is answered: own (the exit's own), best (of the exits so far), ensemble (of them), or auto, what "
        "cross-validation advises. Default: the policy's own; auto for cascades."
    )
    calibration: str = _policy(
        "How thresholds are set: sequential, or marginal as in the paper.", default="sequential"
    )
    ties: str = _policy(
        "The keys that break ties between equal scores: content, so that copies of an input leave together, or row (or "
        "request): then copies may part, and all of the budget is used where inputs repeat.",
        default="content",
    )

    def check(self, *, certified: bool) -> None:
        """Raise InputError for unknown values, or a calibration that cannot certify a budget."""
        from exeunt.policy.ensemble_fitting import ANSWERS

        if self.answer not in (None, *ANSWERS):
            raise InputError(f"--answer must be own, best, ensemble or auto, got {self.answer!r}")
        if self.calibration not in ("sequential", "marginal"):
            raise InputError(f"--calibration must be sequential or marginal, got {self.calibration!r}")
        if self.calibration == "marginal" and certified:
            raise InputError(
                "marginal calibration has no exact distribution to certify a budget by: use --calibration "
                "sequential, or --delta none"
            )

    def made(self, *, live: bool = False) -> Callable[..., Policy]:
        """Return the function that makes a policy from traces and a budget; `live`: of live models."""
        from exeunt.rules.by_name import ROUTERS
        from exeunt.rules.catalogue import preset

        if self.policy not in ROUTERS:
            options: dict[str, Any] = {} if self.score is None else {"score": self.score}
            return partial(preset(self.policy), calibration=self.calibration, ties=self.ties, **options)
        if not live:
            raise InputError(
                f"{self.policy} chooses which live models to ask (`exeunt record --models models.yaml`), and networks "
                "are asked one after the other: take another --policy"
            )
        if self.score is not None or self.calibration != "sequential":
            raise InputError(
                f"{self.policy} ranks inputs by the value of answering: leave out --score and --calibration"
            )
        if self.policy == "router" and self.answer is not None:
            raise InputError("router asks one model, whose own answer it gives: leave out --answer")
        return partial(ROUTERS[self.policy], ties=self.ties)


def is_of_time(of: str, budgets: Sequence[str | float]) -> bool:
    """Return whether budgets are of time, as `--of` says: "auto" goes by their units. Raises InputError for others."""
    from exeunt.costs.budget_text import is_duration, parse_budget

    if of not in ("auto", "macs", "time"):
        raise InputError(f"--of must be macs or time, got {of!r}")
    timed = [is_duration(str(budget)) for budget in budgets]
    if of == "macs" or (of == "auto" and not any(timed)):
        return False
    if of == "auto" and not all(timed):
        raise UnitError(
            f"shares of time and of multiply-adds differ, and {', '.join(map(str, budgets))} may mean either: "
            "add --of time"
        )
    try:  # before anything is timed
        for budget in budgets:
            parse_budget(str(budget), full=1.0, unit="ms")
    except UnitError as error:
        texts = ", ".join(map(str, budgets))
        raise UnitError(
            f"budgets of time are shares such as 60% or times such as 4ms, got {texts}: for multiply-adds give neither "
            "--of time nor a time"
        ) from error
    return True
