"""`exeunt calibrate GATEWAY_FOLDER`: show what a gateway has certified, as often as one likes."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from shlex import quote

from exeunt._support.text import echo
from exeunt.cli.calibration_options import Guarantee
from exeunt.cli.options import changed
from exeunt.errors import InputError, require


def calibrate_gateway(folder: Path, guarantee: Guarantee, *, labels: Path | None, others: str) -> None:
    """Print what is certified now. `labels`: with which grades are compared. `others`: options given that a gateway
    does not take.
    """
    require("msgspec", extra="gateway")
    from exeunt.gateway.evidence import own_settings
    from exeunt.gateway.folder import REPORT, GatewayModels
    from exeunt.gateway.labels import agreement, read_labels
    from exeunt.gateway.money import compared_in
    from exeunt.gateway.standing import STANDING
    from exeunt.stream.bill import Bill, Span
    from exeunt.stream.records import COMPARED, Records

    if given := " ".join(filter(None, (changed(guarantee), others))):
        raise InputError(
            f"what a gateway promises stands in its file, and it certifies that by itself: write `promise: {{max_loss: "
            f"5%}}` there, and leave out {given}"
        )
    models = GatewayModels.read(folder)
    with closing(Records(folder)) as records:
        standing = records.kept(STANDING)
        lines = [] if standing is None else [standing["text"]]
        if spans := records.kept("bill"):
            bill = Bill([Span.from_dict(span) for span in spans])
            lines.append(bill.told(compared_in(folder), time.time()))
        if labels is not None:
            own = own_settings(records.settings(), models)
            where = f"compared = ? AND setting IN ({', '.join('?' * len(own))})"
            graded = records.read(where, (COMPARED, *own))
            lines.append(agreement(read_labels(labels), graded, models.reference, models.measure))
    if standing is None:
        lines.insert(0, f"nothing is known yet of {folder}: run its gateway with `exeunt gateway FILE`")
    else:
        lines.append(f"\nreport: {quote(str(folder / REPORT))}")
    echo("\n".join(lines))
