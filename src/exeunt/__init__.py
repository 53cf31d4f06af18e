"""Exeunt: make a trained classifier answer within a compute budget.

    cost = ex.CostModel([2.7, 9.9, 15.3], unit="MMACs")
    trace = ex.ExitTrace.from_probabilities(probabilities, cost=cost, label=y)
    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.2, test=0.5)
    policy = ex.eero(fit, calibrate, budget="50%", delta=0.05)
    result = ex.evaluate(policy, test)

A policy is a score (who leaves first), an allocation (what share leaves where) and a calibration (which
thresholds release those shares). Start with `eero`, `evaluate` and `compare`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from exeunt._version import __version__ as __version__

if TYPE_CHECKING:
    from exeunt.allocation import exponential_weights, gaussian, geometric, two_exit
    from exeunt.batch_routing import route_batch
    from exeunt.comparison.compare import compare
    from exeunt.comparison.comparison import Comparison
    from exeunt.costs import CostModel
    from exeunt.errors import (
        ArtefactError,
        ExeuntError,
        FileError,
        Infeasible,
        InfeasibleBudget,
        InputError,
        MissingExtra,
        UnitError,
    )
    from exeunt.evaluation import Result, evaluate, oracle, score_exits
    from exeunt.frontiers import Frontier, frontier
    from exeunt.mean_cost.distribution import MeanCostDistribution
    from exeunt.policies.auto import auto
    from exeunt.policies.by_allocation import eero, msdnet, predictive_exit, random_routing
    from exeunt.policies.cascade import cascade, cascades
    from exeunt.policies.common_threshold import common_threshold
    from exeunt.policies.compose import compose
    from exeunt.policies.genetic import genetic
    from exeunt.policies.learn_then_test import cheapest
    from exeunt.policies.learned_correctness import learned_correctness
    from exeunt.policies.loss_certificate import LossCertificate
    from exeunt.policies.optimised import optimised
    from exeunt.policies.patience import confident_patience, patience
    from exeunt.policies.risk_controlled import risk_controlled
    from exeunt.policies.stopping import stopping
    from exeunt.policy import Certificate, Policy, PolicySet, PolicyState
    from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace

__all__ = [
    "ArtefactError",
    "CascadeTrace",
    "Certificate",
    "Comparison",
    "CostModel",
    "ExeuntError",
    "ExitTrace",
    "FileError",
    "Frontier",
    "Infeasible",
    "InfeasibleBudget",
    "InputError",
    "LossCertificate",
    "MeanCostDistribution",
    "MissingExtra",
    "Policy",
    "PolicySet",
    "PolicyState",
    "Result",
    "StoredTrace",
    "UnitError",
    "auto",
    "cascade",
    "cascades",
    "cheapest",
    "common_threshold",
    "compare",
    "compose",
    "confident_patience",
    "eero",
    "evaluate",
    "exponential_weights",
    "frontier",
    "gaussian",
    "genetic",
    "geometric",
    "learned_correctness",
    "msdnet",
    "optimised",
    "oracle",
    "patience",
    "predictive_exit",
    "random_routing",
    "risk_controlled",
    "route_batch",
    "score_exits",
    "stopping",
    "two_exit",
]

# Each name is imported when it is first used, so that a program pays for what it uses: all of them take a second.
_HOMES = {
    "allocation": "exponential_weights gaussian geometric two_exit",
    "comparison.comparison": "Comparison",
    "comparison.compare": "compare",
    "batch_routing": "route_batch",
    "costs": "CostModel",
    "errors": "ArtefactError ExeuntError FileError Infeasible InfeasibleBudget InputError MissingExtra UnitError",
    "evaluation": "Result evaluate oracle score_exits",
    "frontiers": "Frontier frontier",
    "mean_cost.distribution": "MeanCostDistribution",
    "policies.auto": "auto",
    "policies.by_allocation": "eero msdnet predictive_exit random_routing",
    "policies.cascade": "cascade cascades",
    "policies.common_threshold": "common_threshold",
    "policies.compose": "compose",
    "policies.genetic": "genetic",
    "policies.learn_then_test": "cheapest",
    "policies.learned_correctness": "learned_correctness",
    "policies.loss_certificate": "LossCertificate",
    "policies.optimised": "optimised",
    "policies.patience": "confident_patience patience",
    "policies.risk_controlled": "risk_controlled",
    "policies.stopping": "stopping",
    "policy": "Certificate Policy PolicySet PolicyState",
    "trace": "ExitTrace CascadeTrace StoredTrace",
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
