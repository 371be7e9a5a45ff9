"""Commands on the Hugging Face hub: push, pull."""

from pathlib import Path
from typing import Annotated

import typer
from actquant_runtime.hub import HubName, parse_hub_name

from actquant.cli import tables
from actquant.cli.command_line import asked, errors
from actquant.cli.options import Force, Json
from actquant.cli.output import app, show, told_plainly
from actquant.common.errors import UsageError
from actquant.common.outputs import CARD, MODEL, check_output
from actquant.common.paths import require_file


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="A GGUF.")],
    repository: Annotated[str, typer.Argument(help="organisation/name on the hub.")],
    result: Annotated[
        list[Path] | None,
        typer.Option(help="Result of `actquant eval` of this file, for the card; repeatable."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; refused if it is not.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to, made if it is not there; default main.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Write the model card beside the GGUF, as MODEL.md, upload nothing."
        ),
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Upload a GGUF to the Hugging Face hub, with a model card made from it. See docs/hub.md."""
    with told_plainly(as_json):
        with asked():
            require_file(model, "a GGUF")
            card = model.with_suffix(".md") if dry_run else None
            for path in result or []:
                require_file(path, "a result of `actquant eval`")
            if card is not None:
                check_output(card, CARD, [model, *(result or [])], force=force)
        from actquant.hub.push import push as run
        from actquant.hub.push import target_name

        with asked():
            target_name(model, repository, revision)
        _keep_bars_out_of_logs()
        report = run(
            model,
            repository,
            results=result or [],
            private=private,
            revision=revision,
            message=message,
            card=card,
        )
        show(report, as_json, *tables.push(report))


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="organisation/name\\[@revision]\\[:FILE.gguf] on the hub.")
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Which GGUF, where the repository has several.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to put it; default: it stays in the hub's cache.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Download a GGUF from the Hugging Face hub and check it. See docs/hub.md."""
    with told_plainly(as_json):
        with asked():
            wanted = _wanted(name, revision, file)
            if out is not None:
                check_output(out, MODEL, [], force=force)
        from actquant.hub.pull import pull as run

        _keep_bars_out_of_logs()
        report = run(wanted, out)
        show(report, as_json, *tables.pull(report))


def _keep_bars_out_of_logs() -> None:
    """Leaves the client's progress bars to terminals."""
    from huggingface_hub.utils import disable_progress_bars

    if not errors.is_terminal:
        disable_progress_bars()


def _wanted(name: str, revision: str | None, file: str | None) -> HubName:
    """Raises UsageError for what is no name, or says something twice."""
    found = parse_hub_name(name)
    if found is None:
        raise UsageError(
            f"{name!r} is no repository of the hub; give organisation/name[@revision][:FILE.gguf]"
        )
    for option, given, said in (
        ("--revision", revision, found.revision),
        ("--file", file, found.file),
    ):
        if given is not None and said is not None:
            raise UsageError(f"{option} {given}: {name} says {said} already")
    return HubName(found.repository, revision or found.revision, file or found.file)
