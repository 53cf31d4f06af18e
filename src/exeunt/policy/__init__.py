"""The decision: which inputs answer at which exit, and what is guaranteed of the mean cost and of the accuracy."""

from exeunt.policy.certificates import Certificate, EarlyCertificate, LossCertificate, TailCertificate
from exeunt.policy.pacing import Pace
from exeunt.policy.policy import Policy
from exeunt.policy.policy_set import PolicySet
from exeunt.policy.state import Decision, PolicyState

__all__ = [
    "Certificate",
    "Decision",
    "EarlyCertificate",
    "LossCertificate",
    "Pace",
    "Policy",
    "PolicySet",
    "PolicyState",
    "TailCertificate",
]
