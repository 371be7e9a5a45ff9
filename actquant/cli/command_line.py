"""How a wrong command line ends: in one line, with exit code 2, before anything is done."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from actquant.common.errors import ActquantError, OutputError, UsageError
from actquant.common.tables import printable

# Progress and errors go to stderr: stdout holds the result alone, so that --json can be piped.
errors = Console(stderr=True)


@contextmanager
def asked() -> Iterator[None]:
    """Takes what is wrong inside the block for a wrong command line: exit code 2."""
    try:
        yield
    except OutputError:
        raise
    except ActquantError as error:
        error.exit_code = UsageError.exit_code
        raise


def tell_error(kind: str, message: str, as_json: bool) -> None:
    """Prints one error: a JSON object on stdout, or a line on stderr."""
    if as_json:
        print(json.dumps({"error": kind, "message": message}), flush=True)
        return
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    told = "; ".join(lines).replace(":; ", ": ")
    errors.print(kind, style="bold red", end="", markup=False)
    errors.print(f": {printable(told)}", markup=False, highlight=False, soft_wrap=True)


class Commands(TyperGroup):
    """Commands whose wrong options are told as our own errors are."""

    def main(self, *arguments: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs a command and ends the process with its exit code."""
        if not standalone_mode:
            return super().main(*arguments, standalone_mode=False, **extra)
        try:
            status = super().main(*arguments, standalone_mode=False, **extra)
        except typer.Abort:
            sys.exit(1)
        except Exception as error:
            self._end(error)
        sys.exit(status if isinstance(status, int) else 0)

    @staticmethod
    def _end(error: Exception) -> NoReturn:
        """Ends the process for an error of the parser's; raises any other."""
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise error
        if type(error).__name__ != "NoArgsIsHelpError":  # the help is printed already
            message = " ".join(explain().split())
            context = getattr(error, "ctx", None)
            if context is not None:
                message += f" ({context.command_path} --help says what there is)"
            tell_error(UsageError.__name__, message, "--json" in sys.argv[1:])
        sys.exit(getattr(error, "exit_code", UsageError.exit_code))
