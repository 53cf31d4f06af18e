"""Exeunt: make a trained classifier answer within a compute budget.

    cost = ex.CostModel([2.7, 9.9, 15.3], unit="MMACs")
    trace = ex.ExitTrace.from_probabilities(probabilities, cost=cost, label=y)
    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.2, test=0.5)
    policy = ex.eero(fit, calibrate, budget="50%", delta=0.05)
    result = ex.evaluate(policy, test)

A policy is a score (which inputs leave first), an allocation (what share leaves where) and a calibration (which
thresholds release those shares). Start with `eero`, `evaluate` and `compare`. The rules of the literature to compare
with are in `exeunt.rules.baselines`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from exeunt._version import __version__ as __version__

if TYPE_CHECKING:
    from exeunt.costs.cost_model import CostModel as CostModel
    from exeunt.errors import ArtefactError as ArtefactError
    from exeunt.errors import ExeuntError as ExeuntError
    from exeunt.errors import Infeasible as Infeasible
    from exeunt.errors import InfeasibleBudget as InfeasibleBudget
    from exeunt.errors import InputError as InputError
    from exeunt.errors import OverBudget as OverBudget
    from exeunt.evaluation.compare import compare as compare
    from exeunt.evaluation.comparison import Comparison as Comparison
    from exeunt.evaluation.frontiers import Frontier as Frontier
    from exeunt.evaluation.frontiers import frontier as frontier
    from exeunt.evaluation.replay import Result as Result
    from exeunt.evaluation.replay import evaluate as evaluate
    from exeunt.evaluation.replay import oracle as oracle
    from exeunt.ledger.ledger import Ledger as Ledger
    from exeunt.live import FeatureModel as FeatureModel
    from exeunt.live import FunctionModel as FunctionModel
    from exeunt.live import HTTPModel as HTTPModel
    from exeunt.live import LiveCascade as LiveCascade
    from exeunt.live import OpenAICompatible as OpenAICompatible
    from exeunt.live import TextEncoder as TextEncoder
    from exeunt.policy import Pace as Pace
    from exeunt.policy import Policy as Policy
    from exeunt.policy import PolicySet as PolicySet
    from exeunt.policy.calibration import route_batch as route_batch
    from exeunt.policy.compose import compose as compose
    from exeunt.policy.recalibration import recalibrate as recalibrate
    from exeunt.rules.auto import auto as auto
    from exeunt.rules.cascade import cascade as cascade
    from exeunt.rules.cascade import cascades as cascades
    from exeunt.rules.catalogue import eero as eero
    from exeunt.rules.catalogue import learned_correctness as learned_correctness
    from exeunt.rules.catalogue import optimised as optimised
    from exeunt.rules.cheapest import cheapest as cheapest
    from exeunt.rules.common_threshold import common_threshold as common_threshold
    from exeunt.rules.common_threshold import risk_controlled as risk_controlled
    from exeunt.rules.one_look import one_look as one_look
    from exeunt.rules.router_fitting import cascade_router as cascade_router
    from exeunt.rules.router_fitting import router as router
    from exeunt.rules.stopping import stopping as stopping
    from exeunt.runs.open_path import load as load
    from exeunt.trace import CascadeTrace as CascadeTrace
    from exeunt.trace import ExitTrace as ExitTrace
    from exeunt.trace import Groups as Groups
    from exeunt.trace import StoredTrace as StoredTrace
    from exeunt.watch import Watch as Watch

# Each name is imported when it is first used, so that a program pays for what it uses: all of them take a second.
_HOMES = {
    "costs.cost_model": "CostModel",
    "errors": "ArtefactError ExeuntError Infeasible InfeasibleBudget InputError OverBudget",
    "evaluation.compare": "compare",
    "evaluation.comparison": "Comparison",
    "evaluation.frontiers": "Frontier frontier",
    "evaluation.replay": "Result evaluate oracle",
    "ledger.ledger": "Ledger",
    "live": "FeatureModel FunctionModel HTTPModel LiveCascade OpenAICompatible TextEncoder",
    "policy": "Pace Policy PolicySet",
    "policy.calibration": "route_batch",
    "policy.compose": "compose",
    "policy.recalibration": "recalibrate",
    "rules.auto": "auto",
    "rules.cascade": "cascade cascades",
    "rules.catalogue": "eero learned_correctness optimised",
    "rules.cheapest": "cheapest",
    "rules.common_threshold": "common_threshold risk_controlled",
    "rules.one_look": "one_look",
    "rules.router_fitting": "cascade_router router",
    "rules.stopping": "stopping",
    "runs.open_path": "load",
    "trace": "CascadeTrace ExitTrace Groups StoredTrace",
    "watch": "Watch",
}
_HOME_OF = {name: f"exeunt.{module}" for module, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    """Import a public name from the module that holds it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
