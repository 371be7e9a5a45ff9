"""The command's face: where results and errors go, and how errors end it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from actquant_runtime import ModelFileError
from pydantic import BaseModel
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import actquant
from actquant.common.errors import ActquantError
from actquant.common.extras import explain_missing, find_extra
from actquant.common.interrupts import unwinding
from actquant.common.processes import launched, speaks

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# Progress and errors go to stderr: stdout holds the result alone, so that --json can be piped.
errors = Console(stderr=True)
# A pipe or a log has no width of its own; 80 columns would break most tables.
console = Console(width=None if sys.stdout.isatty() else 130)


SHARED = "compress"
"""The command that `accelerate launch` may start several of."""


def show_version(wanted: bool) -> None:
    """Prints the version, if it is wanted, and ends the command."""
    if wanted:
        typer.echo(f"actquant {actquant.__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show version.")
    ] = False,
) -> None:
    """Compress a Vision-Language-Action policy by what its weights do to the robot's actions."""
    if launched() and context.invoked_subcommand != SHARED:
        errors.print(f"Several processes share the work of `{SHARED}` alone; start one.")
        raise typer.Exit(2)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


RESUMABLE = "The same command goes on from what is finished."


@contextmanager
def told_plainly(as_json: bool, after_a_stop: str = RESUMABLE) -> Iterator[None]:
    """Turns our own errors, and the runtime's, into one message and their exit code; Ctrl-C and
    SIGTERM clean up, say what `after_a_stop` does and give 130 and 143."""
    with unwinding() as received:
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if received:
                errors.print(f"Stopped. {after_a_stop}".rstrip())
                raise typer.Exit(128 + received[0]) from error
            message = _plain_message(error)
            if message is None:
                raise
            if as_json:
                print(json.dumps({"error": type(error).__name__, "message": message}))
            else:
                errors.print(f"[bold red]{type(error).__name__}[/]: ", end="")
                errors.print(message, markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(getattr(error, "exit_code", 1)) from error


def _plain_message(error: BaseException) -> str | None:
    """Returns what the user is told; None for an error that is a defect of ours."""
    if isinstance(error, ModuleNotFoundError) and find_extra(error.name) is not None:
        return explain_missing(error)
    return str(error) if isinstance(error, ActquantError | ModelFileError) else None


def progress_bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not speaks(),
    )


def show(result: BaseModel, as_json: bool, *renderables: Any) -> None:
    if not speaks():
        return
    if as_json:
        print(result.model_dump_json(indent=1))
    else:
        console.print(*renderables, sep="\n")


def numbers(flag: str, text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{flag} {text}: wanted numbers, e.g. 2.5,3") from None


def renames(pairs: list[str]) -> dict[str, str]:
    """Parses THEIRS=POLICY'S of --rename; nothing after = leaves a name out."""
    names: dict[str, str] = {}
    for pair in pairs:
        old, separator, new = pair.partition("=")
        if not (separator and old) or old in names:
            problem = f"{old} is renamed twice" if old in names else "wanted THEIRS=POLICY'S"
            raise typer.BadParameter(f"--rename {pair}: {problem}")
        names[old] = new
    return names


def key_values(flag: str, pairs: list[str]) -> dict[str, Any]:
    """Parses KEY=VALUE; a value that is JSON is what it says, e.g. a number."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise typer.BadParameter(f"{flag} {pair}: wanted KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values
