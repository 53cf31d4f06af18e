"""All worlds by name, and what is measured in one."""

from __future__ import annotations

import logging
from typing import Any

from tests.gateway.simulation.after import After
from tests.gateway.simulation.drive import driven
from tests.gateway.simulation.fixed_worlds import FIXED
from tests.gateway.simulation.measures import measured
from tests.gateway.simulation.weeks import DRAWN, few_hold_many, users_return

NAMED = FIXED | DRAWN
SIDES: dict[str, Any] = {side.name: side for side in (After,)}


def lived(side: str, name: str, seed: int) -> Any:
    """Return what is measured in a world; of those drawn by lot, all looks that found a certificate, and the last."""
    logging.getLogger("exeunt").setLevel(logging.CRITICAL)
    found = driven(NAMED[name](seed), SIDES[side], measured)
    if name in DRAWN:  # of these there may be a thousand
        found["few_hold_many"] = name == "weeks" and few_hold_many(seed)
        found["users_return"] = name == "weeks" and users_return(seed)
        found["looks"] = [*filter(lambda look: look["name"], found["looks"][:-1]), *found["looks"][-1:]]
    return found
