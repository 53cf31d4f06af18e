"""What clients are told where there is too little money for a request."""

from __future__ import annotations

import math

from exeunt.errors import OverBudget


def missing_money(
    error: OverBudget, *, program: str, unit: str = "", less: str = ""
) -> tuple[int, str, dict[str, str]]:
    """Return status, why, and headers: 429 with the time when there may be money again, else 402.

    `program`: what the client asks, such as "server". `unit`: of the amounts, where the client knows it. `less`: how to
    ask for what costs less.
    """
    asked, left = (f"{amount:g} {unit}".strip() for amount in (error.asked, error.left))
    why = f"this may cost {asked}, and {left} of what may be spent is left"
    wait_s = 1.0 if error.passing else error.wait_s
    if wait_s is None:
        return 402, f"{why}: {f'{less}, or ' if less else ''}ask who runs this {program} for more", {}
    after = math.ceil(wait_s)
    return 429, f"{why}: try again in {after} s", {"retry-after": str(after)}
