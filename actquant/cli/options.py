"""Options that several commands take, with the values that they may have."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from actquant_runtime import ArgumentError, find_device
from actquant_runtime.hub import find_model

from actquant.common.paths import require_file

LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024


def finite(value: float | None) -> float | None:
    """Refuses infinities and what is no number."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


def positive(value: float | None) -> float | None:
    """Refuses what is not a finite number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is no finite number above 0")
    return value


def known_device(value: str) -> str:
    """Refuses a device that this machine, or this build of the runtime, lacks."""
    try:
        find_device(value)
    except ArgumentError as error:
        raise typer.BadParameter(str(error)) from error
    return value


EFFORT, PLACES, MOTION = "How much work", "Where work is kept", "How it moves"
"""Groups of options in --help."""

HUB_NAME = r"organisation/name\[@revision]\[:FILE.gguf] of the Hugging Face hub"
"""With rich's markup for brackets, which --help would take for styles."""

Model = Annotated[str, typer.Argument(help=f"A GGUF, or {HUB_NAME}.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace what is at an output's place, also if it is not ours."),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the cache; default $ACTQUANT_CACHE, or the user's cache folder.",
        rich_help_panel=PLACES,
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        help="THEIRS=POLICY'S where a camera or a vector has another name, e.g. "
        "observation.images.front=observation.images.scene; nothing after = leaves it out. May be "
        "repeated."
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of splits, noise and sampling.")
]
Starts = Annotated[str, typer.Option(help="Numbered starts of every task, e.g. 0:50.")]
HeldOut = Annotated[
    int,
    typer.Option(
        min=1, help="Frames of other episodes for the action error.", rich_help_panel=EFFORT
    ),
]
TuneMinutes = Annotated[
    float,
    typer.Option(
        min=0,
        callback=finite,
        help="Time for tuning block scales and norms; 0 for none.",
        rich_help_panel=EFFORT,
    ),
]
TuneSteps = Annotated[
    int, typer.Option(min=0, help="Steps of tuning, if the time allows.", rich_help_panel=EFFORT)
]
Device = Annotated[
    str,
    typer.Option(
        callback=known_device,
        help="What computes: cpu; vulkan or cuda, where the runtime was built for it; auto: the "
        "first GPU, else the processor. vulkan1 is the second of several.",
    ),
]
Threads = Annotated[
    int, typer.Option(min=0, max=MOST_THREADS, help="Threads; 0: as many as there is work for.")
]
Mode = Annotated[
    str,
    typer.Option(help="sync, async (queue), or rtc (real-time chunking).", rich_help_panel=MOTION),
]
ExecutionHorizon = Annotated[
    int,
    typer.Option(
        min=1,
        help="rtc: actions of the old chunk, at most, that guide the new one.",
        rich_help_panel=MOTION,
    ),
]
StepsPerChunk = Annotated[
    int | None,
    typer.Option(min=1, help="Actions executed before the next chunk; default the policy's."),
]


def model_path(model: str, *, folder: bool = False) -> Path:
    """Returns the path of a MODEL, downloaded from the hub where there is none of this name here.

    Raises UsageError if it is no file (or folder, with `folder`), HubError if the hub does not give
    it.
    """
    wanted = "a GGUF or a checkpoint folder" if folder else "a GGUF"
    return require_file(find_model(model), wanted, folder=folder)


def numbers(flag: str, text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{flag} {text}: wanted numbers, e.g. 2.5,3") from None


def whole_numbers(flag: str, text: str) -> list[int]:
    """Whole numbers from 0 to LARGEST_SEED with commas between them."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{flag} {text}: wanted whole numbers, e.g. 0,1") from None
    if not 0 <= min(found) <= max(found) <= LARGEST_SEED:
        raise typer.BadParameter(f"{flag} {text}: wanted whole numbers from 0 to {LARGEST_SEED}")
    return found


def renames(pairs: list[str]) -> dict[str, str]:
    """Parses THEIRS=POLICY'S of --rename; nothing after = leaves a name out."""
    return _texts("--rename", "THEIRS=POLICY'S", "renamed", pairs)


def environment_options(pairs: list[str]) -> dict[str, str]:
    """Parses KEY=VALUE of --env-option."""
    return _texts("--env-option", "KEY=VALUE", "given", pairs)


def _texts(flag: str, form: str, done: str, pairs: list[str]) -> dict[str, str]:
    """Parses texts with = between them, the first of which are different from each other."""
    texts: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not (separator and key) or key in texts:
            problem = f"{key} is {done} twice" if key in texts else f"wanted {form}"
            raise typer.BadParameter(f"{flag} {pair}: {problem}")
        texts[key] = value
    return texts


def key_values(flag: str, pairs: list[str]) -> dict[str, Any]:
    """Parses KEY=VALUE; a value that is JSON is what it says, e.g. a number."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{flag} {pair}: wanted KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except (ValueError, RecursionError):
            values[key] = value
    return values
