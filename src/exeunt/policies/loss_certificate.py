"""The promise that answering early loses at most so much accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exeunt.policy import Policy

__all__ = ["LossCertificate"]

_NOTE = "loss_certificate"


@dataclass(frozen=True)
class LossCertificate:
    """The promise P(accuracy >= that of the full network - max_loss) >= 1 - delta.

    `p_value` is that of the policy, `bound` the name of the bound it comes from, `loss` the loss of accuracy
    measured on the `n_test` labelled inputs that were tested on.
    """

    max_loss: float
    delta: float
    p_value: float
    bound: str
    loss: float
    n_test: int

    @classmethod
    def of(cls, policy: Policy) -> LossCertificate | None:
        """Return the certificate that a policy carries in its notes, if any."""
        kept = policy.notes.get(_NOTE)
        return None if kept is None else cls(**kept)

    def on(self, policy: Policy) -> Policy:
        """Return the policy with this certificate."""
        return replace(policy, notes={**policy.notes, _NOTE: asdict(self)})

    def __str__(self) -> str:
        return (
            f"P(accuracy >= that of the full network - {100 * self.max_loss:.4g} points) >= "
            f"{1 - self.delta:g}: {100 * self.loss:.2f} points lost on the {self.n_test} labelled inputs "
            f"tested on, p = {self.p_value:.2g} ({self.bound.replace('_', '-')} bound)"
        )
