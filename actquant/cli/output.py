"""The command's face: where results and errors go, and how errors end it."""

import errno
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
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

import actquant
from actquant.cli.command_line import Commands, errors, tell_error
from actquant.common.errors import ActquantError, OutputError
from actquant.common.extras import explain_missing, find_extra
from actquant.common.interrupts import unwinding
from actquant.common.processes import launched, speaks
from actquant.common.tables import plain

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
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


RESUMABLE = "The same command goes on from what is finished."
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def told_plainly(as_json: bool, after_a_stop: str = RESUMABLE) -> Iterator[None]:
    """Turns our own errors, the runtime's and the system's into one message and their exit code;
    Ctrl-C and SIGTERM clean up, say what `after_a_stop` does and give 130 and 143."""
    with unwinding() as received:
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if received:
                errors.print(f"Stopped. {after_a_stop}".rstrip(), markup=False)
                raise typer.Exit(128 + received[0]) from error
            told = _told(error)
            if told is None:
                raise
            tell_error(*told, as_json)
            raise typer.Exit(getattr(error, "exit_code", 1)) from error


def _told(error: BaseException) -> tuple[str, str] | None:
    """Returns the kind of an error and its message; None for one that is a defect of ours."""
    name = type(error).__name__
    if isinstance(error, ModuleNotFoundError) and find_extra(error.name) is not None:
        return name, explain_missing(error)
    if isinstance(error, ActquantError | ModelFileError):
        return name, str(error)
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        return OutputError.__name__, _system_message(error)
    if isinstance(error, MemoryError):
        return name, "there is not enough memory; close other programs, or use a larger machine"
    return None


def _system_message(error: OSError) -> str:
    where = "" if error.filename is None else f"{error.filename}: "
    if error.errno in _NO_SPACE:
        return f"{where}{error.strerror}; make room: what is finished is kept"
    return f"{where}{error.strerror}"


class _Name(ProgressColumn):
    """What a bar is of, shown as it is."""

    def render(self, task: Task) -> Text:
        return plain(task.description)


def progress_bars() -> Progress:
    return Progress(
        _Name(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not speaks() or not errors.is_terminal,
    )


def show(result: BaseModel, as_json: bool, *renderables: Any) -> None:
    """Prints a result; texts are shown as they are."""
    if not speaks():
        return
    if as_json:
        print(result.model_dump_json(indent=1), flush=True)
        return
    for part in renderables:
        console.print(plain(part) if isinstance(part, str) else part)
