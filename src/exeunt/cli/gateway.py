"""`exeunt gateway`: an endpoint of chat completions in front of models that are paid by the call, and its folder.

`serve` answers; the others look at the gateway's folder or change it, also while the gateway runs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from exeunt._support.text import counted, echo, listed, text_table
from exeunt.cli.options import option, with_groups
from exeunt.cli.tables import UNGRADED, Tables, checked_ungraded
from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from exeunt.gateway.config import GatewayConfig, Spend
    from exeunt.gateway.key_store import Client

_File: TypeAlias = Annotated[
    Path, typer.Argument(metavar="FILE", help="The YAML file of the gateway.", show_default=False)
]
_FileOrFolder: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The YAML file of the gateway, or its folder.", show_default=False),
]
_NO_LIMIT = "no limit"


def serve(file: _File) -> None:
    """Answer chat completions within a budget: in the shadow, then by a certified policy. Ctrl-C ends it."""
    config = _config(file)
    from exeunt.gateway.server import serve_gateway

    serve_gateway(config, file)


def demo() -> None:
    """Show the road from shadow to live with invented models. Ctrl-C ends it."""
    require("starlette", extra="gateway")
    from exeunt.gateway.demo import demonstrate

    with TemporaryDirectory() as folder:
        demonstrate(Path(folder))


@dataclass(frozen=True, kw_only=True)
class _CertifyOptions:
    labels: Path | None = option(
        "Labels of answers, as `exeunt gateway labels` prints them. Says how often grades agree with them."
    )


@with_groups
def certify(file: _FileOrFolder, options: _CertifyOptions) -> None:
    """Show what is certified now, what was saved, and how many more requests it takes; as often as one likes."""
    folder, labels = _folder(file), options.labels
    from exeunt.gateway.certification_status import STATUS
    from exeunt.gateway.evidence import own_settings
    from exeunt.gateway.feedback import feedback_told
    from exeunt.gateway.folder import REPORT, GatewayModels
    from exeunt.gateway.labels import agreement, read_labels
    from exeunt.gateway.ledgers import compared_in
    from exeunt.stream.bill import Bill, Span
    from exeunt.stream.records import COMPARED, Records

    models = GatewayModels.read(folder)
    with closing(Records(folder)) as records:
        status = records.kept(STATUS)
        lines = [] if status is None else [status["text"]]
        if spans := records.kept("bill"):
            bill = Bill([Span.from_dict(span) for span in spans])
            lines.append(bill.told(compared_in(folder), time.time()))
        if told := feedback_told(records.feedback()):
            lines.append(told)
        if labels is not None:
            own = own_settings(records.settings(), models)
            where = f"compared = ? AND setting IN ({', '.join('?' * len(own))})"
            graded = records.read(where, (COMPARED, *own))
            lines.append(agreement(read_labels(labels), graded, models.reference, models.measure))
    if status is None:
        lines.insert(
            0, f"nothing is known yet of {folder}: run its gateway with `exeunt gateway {quote(str(file))}`"
        )
    else:
        lines.append(f"\nreport: {quote(str(folder / REPORT))}")
    echo("\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class _KeyOptions:
    add: str | None = option("Make a key for a client of this name, and print it.")
    add_admin: str | None = option("Make a key to administer the gateway with, and print it.")
    shadow: bool | None = option(
        "Whether requests of the new client may be sent to other models for comparison; they may by default. A further "
        "key of a client keeps what its first one had."
    )
    spend: str | None = option("What requests of the new client may cost, such as '5 usd/month'.")

    def __post_init__(self) -> None:
        if self.add is None and (self.spend is not None or self.shadow is not None):
            raise InputError("--spend and --no-shadow are about a client: give them with --add NAME")
        if self.add is not None and self.add_admin is not None:
            raise InputError("give one of --add and --add-admin at a time")


@with_groups
def keys(file: _File, options: _KeyOptions) -> None:
    """Show who has keys, or make one. It counts at once, also for a gateway that runs."""
    config = _config(file)
    from exeunt.gateway.folder import gateway_folder
    from exeunt.gateway.key_store import Keys

    name = options.add or options.add_admin
    if name is None:
        echo(_shown(Keys(_folder_of(config, file)).clients, config))
        return
    known = Keys(gateway_folder(config.folder))
    again = " Its other key is void." if known.named(name) else ""
    key = known.add(name, admin=options.add is None, shadow=options.shadow, spend=options.spend)
    echo(f"{key}\nThis is the key of {name}. It is kept as a digest: nobody can show it again.{again}")
    if (client := known.named(name)) is not None and not client.admin:
        echo(_allowed(client, config.spend))


def forget(
    file: _FileOrFolder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The client.", show_default=False)],
) -> None:
    """Remove the key and all records of a client, and the policies that hold features of its requests."""
    folder = _folder(file)
    from exeunt.gateway.folder import gateway_folder
    from exeunt.gateway.forgetting import forget_client
    from exeunt.gateway.key_store import Keys
    from exeunt.stream.records import Records

    known = Keys(gateway_folder(folder))
    with closing(Records(folder)) as records:
        key, removed, policies = forget_client(name, known, records)
    echo(f"{name}: {'the key and ' if key else ''}{counted(removed, 'record')} removed")
    if policies:
        echo(
            f"{listed(policies, 3)} held features of its requests, and cannot answer any more: later proposals bring "
            "others"
        )
    try:
        known.check()
    except InputError as missing:
        echo(f"The gateway does not start like this: {missing}")


@dataclass(frozen=True, kw_only=True)
class _LabelOptions:
    count: int = option("How many answers.", default=100, min=1)


@with_groups
def labels(file: _FileOrFolder, options: _LabelOptions) -> None:
    """Print answers for people to label, drawn at random, beside the reference's: see `exeunt gateway certify`."""
    folder = _folder(file)
    from exeunt.gateway.folder import GatewayModels
    from exeunt.gateway.labels import to_label
    from exeunt.stream.records import COMPARED, Records

    models = GatewayModels.read(folder)
    with closing(Records(folder)) as records:
        compared = records.read("compared = ?", (COMPARED,))
    for line in to_label(compared, models.reference, options.count):
        echo(line)


@dataclass(frozen=True, kw_only=True)
class _MoneyOptions:
    book: str | None = option(
        "Let the disputed bills of this model count in full: they were right, and its price was wrong."
    )
    drop: str | None = option(
        "Let the disputed bills of this model count no more than their requests can cost."
    )
    reason: str | None = option("Why, for the gateway's folder: with --book or --drop.")
    resume: str | None = option("Let this model be asked again, which billed more than it may cost.")

    def __post_init__(self) -> None:
        decided = [model for model in (self.book, self.drop) if model is not None]
        if len(decided) > 1 or bool(decided) != bool((self.reason or "").strip()):
            raise InputError("give --book MODEL or --drop MODEL, and say why with --reason TEXT")
        if decided and self.resume is not None:
            raise InputError("decide about the bills of a model first, and --resume it then")


@with_groups
def money(file: _File, options: _MoneyOptions) -> None:
    """Show limits, what is spent and left of each, and disputed bills; decide these, or let a model be asked again."""
    config = _config(file)
    folder = _folder_of(config, file)
    from exeunt.gateway.folder import gateway_folder
    from exeunt.gateway.key_store import Keys
    from exeunt.gateway.ledgers import decide_disputes, limits_in, resume_model, resumed_by
    from exeunt.ledger.calendar import shown_time
    from exeunt.stream.bill import in_usd

    if (model := options.book or options.drop) is not None:
        book = options.book is not None
        bills, is_stopped = decide_disputes(
            folder, model, book=book, reason=options.reason or "", now=time.time()
        )
        counts = f"{in_usd(bills.claimed)} count" if book else f"{in_usd(bills.maximum)} count, and no more"
        again = f"It is asked again after {resumed_by(model)}." if is_stopped else "It is asked as before."
        echo(f"{counted(bills.bills, 'bill')} of {model}: {counts}. {again}")
        return
    if options.resume is not None:
        resume_model(folder, options.resume)
        echo(f"{options.resume} is asked again")
        return
    limits, disputed = limits_in(folder, config.spend, config.shadow, Keys(gateway_folder(folder)).clients)
    rows = []
    for name, state in limits.items():
        left = "" if state["left"] is None else in_usd(state["left"])
        if state["overdrawn"]:
            left = f"nothing, {in_usd(state['overdrawn'])} above it"
        ends = state["ends"]
        until = "" if ends is None else shown_time(int(ends) * 10**9, config.spend.time_zone)
        rows.append([name, state["limit"] or _NO_LIMIT, in_usd(state["spent"]), left, until])
    echo(text_table(["money", "limit", "spent since the first start", "left now", "until"], rows))
    for model, bills in disputed.items():
        echo(
            f"{model} has billed {in_usd(bills.claimed)} for {counted(bills.bills, 'request')} that can cost "
            f"{in_usd(bills.maximum)} at most. That much counts. Decide with `exeunt gateway money {quote(str(file))} "
            f"--book {quote(model)}` (the bill was right) or `--drop {quote(model)}`, and --reason TEXT"
        )


@dataclass(frozen=True, kw_only=True)
class _ImportOptions:
    time: str | None = option(
        "The column of times: seconds since 1970, or texts such as 2026-11-01T08:30:00Z. Without one, the rows are one "
        "period, and nothing is waited for."
    )
    client: str = option("Whose requests these are: a client of the gateway, or any name.", default="log")
    ungraded: str | None = option(UNGRADED)


@with_groups
def import_log(
    file: _File,
    path: Annotated[
        Path, typer.Argument(metavar="TABLE", help="What all models answered before.", show_default=False)
    ],
    tables: Tables,
    options: _ImportOptions,
) -> None:
    """Bring a log into a gateway that does not run: its rows fit policies, and test those of the first promise.

    Rows test only if this is the first log, before the first proposal; others fit policies alone. --group-column names
    the conversation or the user of each row.
    """
    config = _config(file)
    from exeunt._support.files import locked
    from exeunt.cli.opened_tables import open_models
    from exeunt.gateway.folder import LOCK, gateway_folder
    from exeunt.gateway.gateway import Gateway, in_this_process
    from exeunt.gateway.log_import import import_log, times_of
    from exeunt.gateway.server import RUNS
    from exeunt.trace.table_columns import check_columns, read_table

    if tables.unit not in (None, "usd"):
        raise InputError(f"the prices of a gateway are in usd, not in {tables.unit}: leave --unit out")
    table = read_table(path, **tables.format)
    tables = replace(tables, models=tables.models or ",".join(config.compared))
    if options.time is not None:
        check_columns(table, [options.time])
    opened = open_models(
        table,
        path.name,
        tables,
        echo,
        ungraded=checked_ungraded(options.ungraded),
        reference=config.reference,
    )
    times = None if options.time is None else times_of(opened.table[options.time], options.time)
    with locked(gateway_folder(config.folder) / LOCK, config.folder, refusal=RUNS):
        gateway = Gateway(config, apart=in_this_process)
        try:
            done = import_log(
                gateway,
                opened.trace,
                file=path.name,
                client=options.client,
                times=times,
                assumption=opened.assumption,
            )
            echo(str(done))
            asyncio.run(gateway.advance())
            echo(f"\n{gateway.status}")
        finally:
            asyncio.run(gateway.close())
    echo(f"\nnext: exeunt gateway {quote(str(file))}")


def prices(
    file: Annotated[
        Path,
        typer.Argument(metavar="LIST", help="The JSON of prices that LiteLLM publishes.", show_default=False),
    ],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Names of models in the list.", show_default=False)
    ],
) -> None:
    """Print prices of a list of LiteLLM's form, for the file of a gateway. Nothing is fetched."""
    require("starlette", extra="gateway")
    from exeunt.gateway.price_list import PriceList, shown

    print(shown(PriceList.read(file), models, datetime.now(timezone.utc).date()))


import_log.__name__ = "import"
GATEWAY_VERBS = (serve, demo, import_log, certify, keys, forget, labels, money, prices)


class ServeByDefault(typer.core.TyperGroup):
    """`exeunt gateway FILE` is `exeunt gateway serve FILE`."""

    def parse_args(self, context: typer.Context, arguments: list[str]) -> list[str]:  # type: ignore[override]
        """Put the verb before a file. A word that names no file is a verb that there is not."""
        if arguments and arguments[0] not in self.commands:
            file = Path(arguments[0])
            if file.suffix in (".yaml", ".yml") or file.exists():
                arguments = ["serve", *arguments]
        return super().parse_args(context, arguments)  # type: ignore[arg-type]


def _config(file: Path) -> GatewayConfig:
    require("starlette", extra="gateway")
    from exeunt.gateway.config import read_config

    return read_config(file)


def _folder(file: Path) -> Path:
    """Return the folder of a gateway, of its file or itself. Raises InputError if there is none yet."""
    require("msgspec", extra="gateway")
    from exeunt.gateway.folder import GATEWAY

    if file.is_dir():
        if not (file / GATEWAY).is_file():
            raise InputError(
                f"{file} is not the folder of a gateway that has run: give the YAML file of the gateway"
            )
        return file
    return _folder_of(_config(file), file)


def _folder_of(config: GatewayConfig, file: Path) -> Path:
    """Return the folder that a gateway's file names. Raises InputError if there is none yet."""
    folder = config.folder
    if not folder.exists():
        raise InputError(
            f"there is no folder {folder} yet: the first key makes it, `exeunt gateway keys {quote(str(file))} --add "
            "NAME`"
        )
    return folder


def _shown(clients: tuple[Client, ...], config: GatewayConfig) -> str:
    """Return a table of who has keys."""
    rows = [
        [client.name, "administers", "", ""]
        if client.admin
        else [
            client.name,
            "asks",
            client.spend or config.spend.key or _NO_LIMIT,
            "yes" if client.shadow else "no",
        ]
        for client in sorted(clients, key=lambda client: client.name)
    ]
    return text_table(["name", "key", "may spend", "compared"], rows) if rows else "nobody has a key yet"


def _allowed(client: Client, spend: Spend) -> str:
    """Say what holds for the requests of a client."""
    limit = client.spend or spend.key
    shared = "may be" if client.shadow else "are never"
    return (
        f"Its requests {f'may cost {limit}' if limit else 'have no limit of their own'}, and {shared} sent to other "
        "models for comparison."
    )
