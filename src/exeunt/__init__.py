"""Exeunt: make a trained classifier answer within a compute budget.

    cost = ex.CostModel([2.7, 9.9, 15.3], unit="MMACs")
    trace = ex.ExitTrace.from_probabilities(probabilities, cost=cost, label=y)
    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.2, test=0.5)
    policy = ex.eero(fit, calibrate, budget="50%", delta=0.05)
    result = ex.evaluate(policy, test)

A policy is a score (which inputs leave first), an allocation (what share leaves where) and a calibration (which
thresholds release those shares). Start with `eero`, `evaluate` and `compare`. The rules of the literature to compare
with are in `exeunt.baselines`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from exeunt._version import __version__ as __version__

if TYPE_CHECKING:
    from exeunt.calibration import route_batch
    from exeunt.comparison.compare import compare
    from exeunt.comparison.comparison import Comparison
    from exeunt.costs import CostModel
    from exeunt.errors import ArtefactError, ExeuntError, Infeasible, InfeasibleBudget, InputError
    from exeunt.evaluation import Result, evaluate, oracle
    from exeunt.frontiers import Frontier, frontier
    from exeunt.policies.auto import auto
    from exeunt.policies.cascade import cascade, cascades
    from exeunt.policies.cheapest import cheapest
    from exeunt.policies.common_threshold import common_threshold, risk_controlled
    from exeunt.policies.eero import eero
    from exeunt.policies.learned_correctness import learned_correctness
    from exeunt.policies.optimised import optimised
    from exeunt.policies.stopping import stopping
    from exeunt.policy import Policy, PolicySet
    from exeunt.policy.compose import compose
    from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace

__all__ = [
    "ArtefactError",
    "CascadeTrace",
    "Comparison",
    "CostModel",
    "ExeuntError",
    "ExitTrace",
    "Frontier",
    "Infeasible",
    "InfeasibleBudget",
    "InputError",
    "Policy",
    "PolicySet",
    "Result",
    "StoredTrace",
    "auto",
    "cascade",
    "cascades",
    "cheapest",
    "common_threshold",
    "compare",
    "compose",
    "eero",
    "evaluate",
    "frontier",
    "learned_correctness",
    "optimised",
    "oracle",
    "risk_controlled",
    "route_batch",
    "stopping",
]

# Each name is imported when it is first used, so that a program pays for what it uses: all of them take a second.
_HOMES = {
    "calibration": "route_batch",
    "comparison.compare": "compare",
    "comparison.comparison": "Comparison",
    "costs": "CostModel",
    "errors": "ArtefactError ExeuntError Infeasible InfeasibleBudget InputError",
    "evaluation": "Result evaluate oracle",
    "frontiers": "Frontier frontier",
    "policies.auto": "auto",
    "policies.cascade": "cascade cascades",
    "policies.cheapest": "cheapest",
    "policies.common_threshold": "common_threshold risk_controlled",
    "policies.eero": "eero",
    "policies.learned_correctness": "learned_correctness",
    "policies.optimised": "optimised",
    "policies.stopping": "stopping",
    "policy": "Policy PolicySet",
    "policy.compose": "compose",
    "trace": "CascadeTrace ExitTrace StoredTrace",
}
_HOME_OF = {name: f"exeunt.{module}" for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Import a public name from the module that holds it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
