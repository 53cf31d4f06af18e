"""The decision: which inputs answer at which exit, and what is guaranteed of the mean cost and of the accuracy."""

from exeunt.policy.certificates import Certificate, LossCertificate
from exeunt.policy.pacing import Pace
from exeunt.policy.policy import Policy
from exeunt.policy.policy_set import PolicySet
from exeunt.policy.state import Decision, PolicyState

__all__ = ["Certificate", "Decision", "LossCertificate", "Pace", "Policy", "PolicySet", "PolicyState"]
