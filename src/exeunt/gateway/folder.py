"""The folder of a gateway: which models it has, what is kept of requests, and its policies.

`gateway.json`: the models and the reference, written by the gateway. `keys.db`: see `exeunt.gateway.key_store`.
`records.db`: see `exeunt.stream.records`. `secret.key`: the secret of the HMACs in it.
`proposals/`: plans that are tested. `policies/`, `active.json`: those that passed, see `exeunt.gateway.saved_policies`.
`report.html`: what `exeunt gateway certify` shows.
`warned.json`: see `exeunt.gateway.spend_warnings`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exeunt._support.files import make_folder, read_json, secret_of, write_json
from exeunt.errors import ArtefactError, InputError
from exeunt.stream.records import RECORDS, Records

GATEWAY, KEYS, SECRET = "gateway.json", "keys.db", "secret.key"
FORMER_KEYS = "keys.json"
"""In its place earlier versions wrote the keys."""
LOCK = ".running.lock"
"""Held by the gateway that runs."""
JUDGE = "judge"
"""How a grader is named that is a model: "judge MODEL"."""
POLICIES, PROPOSALS, ACTIVE, REPORT = "policies", "proposals", "active.json", "report.html"


@dataclass(frozen=True)
class GatewayModels:
    """The models of a gateway, as `gateway.json` has them.

    `reference`: the model that answers everything in shadow. `highest`: by name of a model, the reference among them,
    the most US dollars that a request may cost there. `features`: the name of the features that routers look at, or "";
    `features_cost`: what a request costs there. `identity`: by name, what tells a model from others of its name, such
    as a digest of its configuration; a policy is refused where one differs. `shadow_share`: of the requests. `grader`:
    what grades answers, as the configuration names it.
    """

    reference: str
    highest: Mapping[str, float]
    features: str = ""
    features_cost: float = 0.0
    identity: Mapping[str, str] = field(default_factory=dict)
    grader: str = ""

    @property
    def measure(self) -> str:
        """What certificates call the grades: a judge's are its own."""
        kind, _, name = self.grader.partition(" ")
        return f"grade by {judge_called(name.strip())}" if kind == JUDGE else "grade"

    @property
    def digest(self) -> str:
        """The digest of the models and the grader; a policy is bound to it."""
        settings = {"reference": self.reference, "features": self.features, "grader": self.grader}
        models = {name: self.identity.get(name, "") for name in sorted(self.highest)}
        text = json.dumps({**settings, "models": models}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write `gateway.json`."""
        models = {
            name: {"highest": highest, "identity": self.identity.get(name, "")}
            for name, highest in self.highest.items()
        }
        features = {"name": self.features, "cost": self.features_cost} if self.features else None
        body = {"reference": self.reference, "models": models, "features": features, "grader": self.grader}
        write_json(folder / GATEWAY, body)

    @classmethod
    def read(cls, folder: Path) -> GatewayModels:
        """Read `gateway.json`. Raises InputError if there is none, ArtefactError if it is damaged."""
        file = folder / GATEWAY
        body = read_json(file, remedy=f"start `exeunt gateway` once with {folder} as its folder")
        try:
            return cls._of(body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtefactError(
                f"{file} does not describe the models of a gateway ({error!r}): start `exeunt gateway` again, "
                "which writes it"
            ) from None

    @classmethod
    def _of(cls, body: Any) -> GatewayModels:
        models, features = body["models"], body["features"] or {"name": "", "cost": 0.0}
        highest = {str(name): float(model["highest"]) for name, model in models.items()}
        if body["reference"] not in highest:
            raise ValueError(f"there is no model {body['reference']!r}, the reference")
        return cls(
            str(body["reference"]),
            highest,
            str(features["name"]),
            float(features["cost"]),
            {str(name): str(model.get("identity", "")) for name, model in models.items()},
            str(body.get("grader", "")),
        )


def judge_called(name: str) -> str:
    """Return what texts call the judge of this name.

    >>> judge_called("expert"), judge_called("judge")
    ('the judge expert', 'the judge')
    """
    return "the judge" if name == "judge" else f"the judge {name}"


def gateway_folder(path: Path) -> Path:
    """Return the folder of a gateway, which its owner alone can read. It is made if there is none.

    Raises InputError for a folder that holds other files, FileError where none can be made.
    """
    present = (
        {file.name for file in path.iterdir() if not file.name.startswith(".")} if path.is_dir() else set()
    )
    if present and not present & {GATEWAY, KEYS, FORMER_KEYS}:
        raise InputError(
            f"{path} holds other files, such as {min(present)}: give the gateway a folder of its own (folder)"
        )
    make_folder(path).chmod(0o700)
    return path


def hashed(secret: bytes, client: str, content: bytes) -> bytes:
    """Return what stands for something of a client: the same for the same, and nobody can tell what it was."""
    return hmac.digest(secret, client.encode() + b"\0" + content, "sha256")[:16]


def secret(folder: Path, records: Records) -> bytes:
    """Return the secret of a gateway's HMACs, 32 bytes; it is made with the folder.

    Raises ArtefactError where it is missing and there have been records, and as `secret_of` does.
    """
    if not os.path.lexists(folder / SECRET) and records.latest_number():
        raise ArtefactError(
            f"{folder / SECRET} is missing, and with a new one all conversations and users of {RECORDS} would count as "
            f"new: restore it from a copy; or begin anew, without what was recorded, certified and saved before, by "
            f"moving {RECORDS}* away"
        )
    return secret_of(folder / SECRET)
