"""Exeunt: make a trained classifier answer within a compute budget.

    cost = ex.CostModel([2.7, 9.9, 15.3], unit="MMACs")
    trace = ex.ExitTrace.from_probabilities(probabilities, cost=cost, label=y)
    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.2, test=0.5)
    policy = ex.eero(fit, calibrate, budget="50%", delta=0.05)
    result = ex.evaluate(policy, test)

A policy is a score (who leaves first), an allocation (what share leaves where) and a calibration (which
thresholds release those shares). Start with `eero`, `evaluate` and `compare`.
"""

from exeunt._version import __version__ as __version__
from exeunt.allocation import exponential_weights, gaussian, geometric, two_exit
from exeunt.arena import Arena, compare
from exeunt.batch_routing import route_batch
from exeunt.costs import CostModel
from exeunt.errors import (
    ArtefactError,
    ExeuntError,
    Infeasible,
    InfeasibleBudget,
    InputError,
    MissingExtra,
    UnitError,
)
from exeunt.evaluate import Result, evaluate, oracle, score_exits
from exeunt.frontier import Frontier, frontier
from exeunt.law.spend_law import SpendLaw
from exeunt.policies.auto import auto
from exeunt.policies.cheapest import cheapest
from exeunt.policies.correctness import learned_correctness
from exeunt.policies.literature import confident_patience, genetic, patience, random_routing
from exeunt.policies.loss_certificate import LossCertificate
from exeunt.policies.optimised import optimised
from exeunt.policies.presets import common_threshold, compose, eero, msdnet, predictive_exit
from exeunt.policies.risk_controlled import risk_controlled
from exeunt.policies.stopping import stopping
from exeunt.policy import Certificate, Policy, PolicySet, PolicyState
from exeunt.trace import ExitTrace

__all__ = [
    "Arena",
    "ArtefactError",
    "Certificate",
    "CostModel",
    "ExeuntError",
    "ExitTrace",
    "Frontier",
    "Infeasible",
    "InfeasibleBudget",
    "InputError",
    "LossCertificate",
    "MissingExtra",
    "Policy",
    "PolicySet",
    "PolicyState",
    "Result",
    "SpendLaw",
    "UnitError",
    "auto",
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
