"""`exeunt gateway FILE`: an endpoint of chat completions in front of models that are paid by the call."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt._support.text import counted, echo, listed
from exeunt.cli.options import changed, options_under, with_groups
from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from exeunt.gateway.config import GatewayConfig
    from exeunt.gateway.keys import Client, Keys

_keys, _money = options_under("Keys"), options_under("Money")


@dataclass(frozen=True, kw_only=True)
class _Keys:
    add_client: str | None = _keys("Make a key for a client of this name, print it, and end.")
    add_admin: str | None = _keys("Make a key to administer the gateway with, print it, and end.")
    shadow: bool | None = _keys(
        "Whether requests of the new client may be sent to other models for comparison; they may by default. A further "
        "key of a client keeps what its first one had."
    )
    spend: str | None = _keys("What requests of the new client may cost, such as '5 usd/day'.")
    forget: str | None = _keys(
        "Remove the key and all records of a client, and the policies that hold features of its requests, and end."
    )

    def check(self) -> None:
        """Raise InputError for options that do not belong together."""
        if self.add_client is None and (self.spend is not None or self.shadow is not None):
            raise InputError("--spend and --no-shadow are about a client: give them with --add-client NAME")
        if sum(one is not None for one in (self.add_client, self.add_admin, self.forget)) > 1:
            raise InputError("give one of --add-client, --add-admin and --forget at a time")


@dataclass(frozen=True, kw_only=True)
class _Money:
    book: str | None = _money(
        "Let the disputed bills of this model count in full, and end: they were right, and its price was wrong."
    )
    drop: str | None = _money(
        "Let the disputed bills of this model count no more than their requests can cost, and end."
    )
    reason: str | None = _money("Why, for the gateway's folder: with --book or --drop.")

    @property
    def decides(self) -> bool:
        """Whether a dispute is decided. Raises InputError for options that do not belong together."""
        models = [one for one in (self.book, self.drop) if one is not None]
        if len(models) > 1 or bool(models) != bool((self.reason or "").strip()):
            raise InputError("give --book MODEL or --drop MODEL, and say why with --reason TEXT")
        return bool(models)


@with_groups
def gateway(
    keys: _Keys,
    money: _Money,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The YAML file of the gateway.", show_default=False)
    ] = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="Show the road from shadow to live with invented models, in place of FILE."
        ),
    ] = False,
    to_label: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Print so many answers, drawn at random, for people to label, and end: see `calibrate --labels`.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Answer chat completions within a budget: in the shadow, then by a certified policy. Ctrl-C ends it."""
    require("starlette", extra="gateway")
    from exeunt.gateway.config import read_config
    from exeunt.gateway.folder import gateway_folder
    from exeunt.gateway.keys import Keys
    from exeunt.gateway.server import serve_gateway

    if demo == (file is not None):
        raise InputError("name the YAML file of a gateway, or give --demo alone")
    if file is None:
        if given := changed(keys) or changed(money) or "--to-label" * (to_label is not None):
            raise InputError(f"the demonstration has keys and records of its own: leave out {given}")
        from exeunt.gateway.demo import demonstrate

        with TemporaryDirectory() as folder:
            demonstrate(Path(folder))
        return
    keys.check()
    decides = money.decides
    config = read_config(file)
    if (name := keys.add_client or keys.add_admin) is not None:
        known = Keys(gateway_folder(config.folder))
        again = " Its other key is void." if known.named(name) else ""
        key = known.add(name, admin=keys.add_admin is not None, shadow=keys.shadow, spend=keys.spend)
        echo(f"{key}\nThis is the key of {name}. It is kept as a digest: nobody can show it again.{again}")
        if (client := known.named(name)) is not None and not client.admin:
            echo(_allowed(client, config))
    elif not (decides or keys.forget is not None or to_label is not None):
        serve_gateway(config, file)
    elif not config.folder.exists():
        raise InputError(
            f"there is no folder {config.folder} yet: the first key makes it (--add-client NAME)"
        )
    elif decides:
        _decide(config.folder, money)
    elif keys.forget is not None:
        _forget(config.folder, Keys(gateway_folder(config.folder)), keys.forget)
    else:
        _print_to_label(config.folder, to_label or 0)


def _decide(folder: Path, money: _Money) -> None:
    from exeunt.gateway.money import decide_disputes, resumed_by
    from exeunt.stream.bill import in_usd

    book, model = money.book is not None, money.book or money.drop or ""
    found, is_stopped = decide_disputes(folder, model, book=book, reason=money.reason or "", now=time.time())
    what = f"{in_usd(found.claimed)} count" if book else f"{in_usd(found.maximum)} count, and no more"
    again = f"It is asked again after {resumed_by(model)}." if is_stopped else "It is asked as before."
    echo(f"{counted(found.bills, 'bill')} of {model}: {what}. {again}")


def _print_to_label(folder: Path, n: int) -> None:
    from exeunt.gateway.folder import GatewayModels
    from exeunt.gateway.labels import to_label
    from exeunt.stream.records import COMPARED, Records

    models = GatewayModels.read(folder)
    with closing(Records(folder)) as records:
        compared = records.read("compared = ?", (COMPARED,))
    for line in to_label(compared, models.reference, n):
        echo(line)


def _allowed(client: Client, config: GatewayConfig) -> str:
    """Say what holds for the requests of a client."""
    spend = client.spend or config.spend.key
    shared = "may be" if client.shadow else "are never"
    return (
        f"Its requests {f'may cost {spend}' if spend else 'have no limit of their own'}, and {shared} sent to other "
        "models for comparison."
    )


def _forget(folder: Path, keys: Keys, name: str) -> None:
    from exeunt.gateway.forgetting import forget_client
    from exeunt.stream.records import Records

    with closing(Records(folder)) as records:
        key, removed, policies = forget_client(name, keys, records)
    echo(f"{name}: {'the key and ' if key else ''}{counted(removed, 'record')} removed")
    if policies:
        echo(
            f"{listed(policies, 3)} held features of its requests, and cannot answer any more: later proposals bring "
            "others"
        )
    try:
        keys.check()
    except InputError as missing:
        echo(f"The gateway does not start like this: {missing}")
