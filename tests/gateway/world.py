"""A gateway's folder of which records are written at once, day by day, and its certifier."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from exeunt.gateway.certification_status import certification_status
from exeunt.gateway.certifier import Certifier
from exeunt.gateway.config import read_config
from exeunt.gateway.folder import gateway_folder
from exeunt.gateway.gateway import _bound_models, in_this_process
from exeunt.gateway.request_stream import RequestStream
from exeunt.gateway.saved_policies import GatewayPolicies
from exeunt.stream.drawing import Period
from exeunt.stream.records import COMPARED, NOT_GRADED, Record, Records, Said
from exeunt.stream.units import Unit

from .running_gateway import written

DAY = 86_400.0
START = 20_000 * DAY


class World:
    """A gateway's folder that is filled day by day, and its certifier. `wrong`: how often the small model is wrong
    where it is sure, which it is of half of the requests.
    """

    def __init__(self, folder: Path, **more: str) -> None:
        self._folder, self._more = folder, {"promise": "{max_loss: 10%}", "min_periods": "3", **more}
        self.now, self._number, self.wrong = START, 0, 0.02
        self.open()

    def copy(self, folder: Path) -> World:
        """Return the same world in another folder."""
        shutil.copytree(self.folder, folder / "gateway")
        other = World.__new__(World)
        other.__dict__.update(self.__dict__, _folder=folder, _more=dict(self._more))
        other.open()
        return other

    def open(self, **more: str) -> None:
        """Open the folder (again), with another file."""
        self._more |= more
        self.config = read_config(written(self._folder, **self._more))
        self.folder = gateway_folder(self.config.folder)
        self.models = _bound_models(self.config)
        self.models.write(self.folder)
        self.records = Records(self.folder)
        self.policies = GatewayPolicies(self.folder, self.models)
        self.traffic = RequestStream(self.config, self.models, self.records, b"secret", self.now)
        self.certifier = Certifier(self.config, self.models, self.records, self.policies, self.now)

    passed: list[list[str]]

    def day(
        self, n: int = 100, *, client: str = "shop", refused: int = 0, alike: bool = False, ungraded: int = 0
    ) -> list[str]:
        """Let a day pass with n conversations of a request each. Returns the names of plans that passed after it."""
        rng = np.random.default_rng([int(self.now), 1])
        period = Period(int(self.now // DAY), 1.0, n, n, refused)
        day_wrong = rng.random() < 0.5
        for k in range(n):
            self._number += 1
            compared = "" if k < refused else NOT_GRADED if k < ungraded else COMPARED
            self._add(rng, period, client, day_wrong if alike else None, compared=compared)
        self.records.update((), [period])
        self.now = (period.number + 1) * DAY + 2 * 3600
        passed = asyncio.run(self.certifier.advance(self.now, (), in_this_process)) or []
        self.now = (period.number + 1) * DAY
        return passed

    def _add(
        self, rng: np.random.Generator, period: Period, client: str, day_wrong: bool | None, *, compared: str
    ) -> None:
        number, sure = self._number, rng.random() < 0.5
        often = self.wrong if sure else 0.6
        wrong = rng.random() < often if day_wrong is None else day_wrong and rng.random() < 0.5
        unit = Unit(
            number, client, self.now, self.now, 1, self.now, period=period.number, probability=1.0,
            drawn=bool(compared), held_out=self.traffic.drawing.is_held_out(number), setting=self.traffic.setting,
            refused=not compared,
        )  # fmt: skip
        score = -float(rng.random()) / 10 if sure else -1 - float(rng.random())
        said = {"small": Said(1e-5, score, 1.0 - wrong), "large": Said(1e-4, None, 1.0)}
        record = Record(
            number, self.now, client, f"{number:032x}", said, setting=self.traffic.setting, unit=number, is_open=True,
            answered="large", asked=("large",), cost=1e-4, compared=compared,
        )  # fmt: skip
        self.records.add(record, [unit])

    def days(self, n: int, **options: Any) -> list[str]:
        return [name for _ in range(n) for name in self.day(**options)]

    @property
    def question(self) -> Any:
        return self.certifier.question

    def reopen(self, **more: str) -> None:
        self.records.close()
        self.open(**more)

    def said(self) -> str:
        """Return what is said of what is certified."""
        return str(certification_status(self.certifier, self.config))


DAYS = 6
"""After which the world of most tests has two proposals, and policies that are certified."""
