"""The certificate that answering early loses at most so much accuracy, on inputs that had no part in the policy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from exeunt._text import counted

if TYPE_CHECKING:
    from exeunt.policy import Policy

__all__ = ["LossCertificate"]

_NOTE = "loss_certificate"


@dataclass(frozen=True)
class LossCertificate:
    """The guarantee P(accuracy >= that of the full network - max_loss) >= 1 - delta.

    `reference`: the model that a cascade is measured against instead of the full network.

    `p_value` is that of the policy, `bound` the name of the bound it comes from, `loss` the loss of accuracy
    measured on the `n_test` labelled inputs that were tested on.
    """

    max_loss: float
    delta: float
    p_value: float
    bound: str
    loss: float
    n_test: int
    reference: str | None = None

    @classmethod
    def of(cls, policy: Policy) -> LossCertificate | None:
        """Return the certificate that a policy carries in its notes, if any."""
        kept = policy.notes.get(_NOTE)
        return (
            None
            if kept is None
            else cls(**{one.name: kept[one.name] for one in fields(cls) if one.name in kept})
        )

    def on(self, policy: Policy) -> Policy:
        """Return the policy with this certificate."""
        return replace(policy, notes={**policy.notes, _NOTE: {**asdict(self), "text": f"certified: {self}"}})

    def __str__(self) -> str:
        change = f"{100 * abs(self.loss):.2f} points {'gained' if self.loss < 0 else 'lost'}"
        return (
            f"P(accuracy >= that of {self.reference or 'the full network'} - {100 * self.max_loss:.4g} points) >= "
            f"{1 - self.delta:g}: {change} on the {counted(self.n_test, 'labelled input')} "
            f"tested on, p = {self.p_value:.2g} ({self.bound.replace('_', '-')} bound)"
        )
