"""The decision: which inputs answer at which exit, with what is guaranteed of the spend."""

from exeunt.policy.cost_certificate import Certificate
from exeunt.policy.policy import Policy
from exeunt.policy.policy_set import PolicySet
from exeunt.policy.state import Decision, PolicyState

__all__ = ["Certificate", "Decision", "Policy", "PolicySet", "PolicyState"]
