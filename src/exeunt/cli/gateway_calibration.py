"""`exeunt calibrate GATEWAY_FOLDER --max-loss 5%`: certify a policy on the records of a gateway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from exeunt._progress import Progress
from exeunt._text import counted, echo
from exeunt.cli.calibration_options import Guarantee
from exeunt.cli.options import changed, this_command
from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from exeunt.gateway.folder import GatewayModels
    from exeunt.gateway.recorded_trace import RecordedTrace


def calibrate_gateway(
    folder: Path, guarantee: Guarantee, seed: int, *, labels: Path | None, others: str
) -> None:
    """Keep the cheapest policy that passes, and a report of it. `labels`: with which grades are compared. `others`:
    options given that a gateway lacks.
    """
    from exeunt.gateway.certify import certify
    from exeunt.gateway.folder import REPORT, GatewayModels
    from exeunt.gateway.recorded_trace import read_trace
    from exeunt.gateway.report import write_report
    from exeunt.gateway.saved_policies import GatewayPolicies

    if others:
        raise InputError(f"the calibration of a gateway takes no {others}")
    wrong = changed(replace(guarantee, budget=None, max_loss=None, delta=None))
    if wrong or not guarantee.loss:
        raise InputError(
            f"a gateway is calibrated by --max-loss above 0, such as --max-loss 5%, and perhaps --budget, got "
            f"{wrong or ('no --max-loss' if guarantee.loss is None else '--max-loss 0')}"
        )
    if (budget := guarantee.budget) is not None and budget.replace(".", "", 1).strip().isdigit():
        raise InputError(
            f"--budget {budget} has no unit: write {budget}% for a share of the reference's mean cost, or "
            f"'{budget} usd' for a request"
        )
    delta = guarantee.checked_delta(certifies=True)
    models = GatewayModels.read(folder)
    records = read_trace(folder, models)
    echo(f"{counted(records.trace.n, 'record')} of {folder}", err=True)
    notes = [*_agreement(labels, records, models), *records.notes]
    with Progress("policies made") as bar:
        found = certify(
            records.trace, models.reference, max_loss=guarantee.loss, budget=guarantee.budget, delta=delta or 0.0,
            seed=seed, progress=bar.report,
        )  # fmt: skip
    name = GatewayPolicies(folder, models).add(found.policy, records.clients)
    _check_nobody_was_forgotten(folder, records.clients)
    write_report(found, folder / REPORT, name=name, notes=notes, command=this_command())
    echo("\n".join([str(found), *notes]))
    echo(
        f"\nkept as {name}, which does not answer before the gateway is told to activate it; "
        f"report: {quote(str(folder / REPORT))}"
    )


def _agreement(file: Path | None, records: RecordedTrace, models: GatewayModels) -> list[str]:
    """Say how often grades agree with the labels in a file, if one is given."""
    if file is None:
        return []
    require("msgspec", extra="gateway")
    from exeunt.gateway.labels import agreement, read_labels

    return [agreement(read_labels(file), records.records, models.reference, models.measure)]


def _check_nobody_was_forgotten(folder: Path, clients: set[str]) -> None:
    """Remove the policy again if a client was forgotten while it was made. Raises InputError then."""
    from exeunt.gateway.records import Records
    from exeunt.gateway.saved_policies import forget_policies

    records = Records(folder)
    gone = clients - records.clients()
    records.close()
    if any(forget_policies(folder, one) for one in gone):
        raise InputError(
            "the records of a client were removed meanwhile, and the policy holds some: calibrate again"
        )
