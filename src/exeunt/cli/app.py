"""All commands. Each imports heavy packages only when it runs, so that `--help` is fast."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Annotated, Any

import typer

from exeunt.cli.bench import bench
from exeunt.cli.calibrate import calibrate
from exeunt.cli.cascade import cascade
from exeunt.cli.compare import compare
from exeunt.cli.demo import demo
from exeunt.cli.evaluate import evaluate
from exeunt.cli.export import export
from exeunt.cli.gateway import GATEWAY_VERBS, ServeByDefault
from exeunt.cli.predict_and_record import predict, record
from exeunt.cli.serve import serve
from exeunt.cli.show_diff_verify import diff, show, verify
from exeunt.cli.train import train
from exeunt.cli.watch import watch
from exeunt.errors import InputError

app = typer.Typer(
    name="exeunt",
    help="Pay less for models, with a certificate: language models behind an API, your own classifiers, networks with "
    "early exits. `exeunt demo` shows it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from exeunt import __version__

        typer.echo(f"exeunt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def _flowing(docstring: str | None) -> str:
    """Return the paragraphs of a docstring, each in one line, so that they fill a terminal of any width."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


gateway = typer.Typer(cls=ServeByDefault, no_args_is_help=True)
_BEFORE_GATEWAY = (
    demo,
    train,
    calibrate,
    evaluate,
    compare,
    predict,
    watch,
    record,
    export,
    bench,
    serve,
)


def _add(group: typer.Typer, verbs: Iterable[Callable[..., None]]) -> None:
    for verb in verbs:
        group.command(help=_flowing(verb.__doc__), short_help=str(verb.__doc__).partition("\n")[0])(verb)


_add(gateway, GATEWAY_VERBS)
_add(app, _BEFORE_GATEWAY)
app.add_typer(
    gateway,
    name="gateway",
    help="Answer chat completions within a budget, in front of models that are paid by the call.\n\n"
    "`exeunt gateway FILE` serves.",
    short_help="Answer chat completions within a budget, in front of models that are paid by the call.",
)
_add(app, (cascade, show, diff, verify))


@cache
def _command() -> Any:
    """Return the parser, which takes 30 ms to make."""
    command: Any = typer.main.get_command(app)
    command.rich_markup_mode = None  # the list of verbs needs no panels, which are slow to import
    return command


def run(arguments: list[str]) -> int:
    """Run a command, by default `--help`, and return its exit status. Errors are raised as they are.

    Raises InputError for an empty argument, such as a shell makes from a variable that is not set.
    """
    for before, word in zip(["exeunt", *arguments], arguments, strict=False):
        option = before if not word else word[:-1] if word.startswith("--") and word.endswith("=") else None
        if option is not None:
            raise InputError(f"an empty text was given for {option}: give a value, or leave it out")
    command = _command()
    try:
        with command.make_context("exeunt", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return 0
