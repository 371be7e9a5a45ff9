"""The command that serves policy files."""

from pathlib import Path
from typing import Annotated

import typer

from actquant.cli.command_line import asked
from actquant.cli.options import HUB_NAME, Device, Rename, Threads, positive, renames
from actquant.cli.output import app, told_plainly
from actquant.common.paths import require_file

CLIENTS, LOAD = "Who may connect", "How much at a time"
"""Groups of options in --help."""


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            help=f"GGUFs, as FILE or NAME=FILE; the first is the default. FILE may be {HUB_NAME}."
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; other machines need a key.", rich_help_panel=CLIENTS
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port; 0: any that is free.", rich_help_panel=CLIENTS),
    ] = 8000,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            help="Certificate chain (PEM): the server speaks TLS.", rich_help_panel=CLIENTS
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The certificate's key (PEM).", rich_help_panel=CLIENTS)
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Let other machines connect without a key.", rich_help_panel=CLIENTS
        ),
    ] = False,
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Requests that may wait or run for a model.", rich_help_panel=LOAD
        ),
    ] = 16,
    deadline: Annotated[
        float,
        typer.Option(
            callback=positive, help="Seconds that a request may wait.", rich_help_panel=LOAD
        ),
    ] = 5.0,
    keepalive: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="Seconds from one sign of life that a client is asked for to the next.",
            rich_help_panel=LOAD,
        ),
    ] = 20.0,
    max_clients: Annotated[
        int, typer.Option(min=1, help="Clients at a time.", rich_help_panel=LOAD)
    ] = 64,
    max_message_mb: Annotated[
        float, typer.Option(callback=positive, help="Longest message, in MB.", rich_help_panel=LOAD)
    ] = 64.0,
    rename: Rename = None,
    threads: Threads = 0,
    device: Device = "cpu",
) -> None:
    """Serve policies over websockets, in openpi's protocol. See docs/serve.md.

    Clients need the key in ACTQUANT_API_KEY if it is set. SIGTERM and Ctrl-C answer what was begun,
    then end. A file that is renamed to a served one's path takes its place.
    """
    with told_plainly(as_json=False, after_a_stop=""):
        import asyncio
        import logging

        from actquant.serve.server import Server
        from actquant.serve.settings import (
            ServeError,
            ServeSettings,
            key_of_environment,
            named_models,
        )

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("websockets.server").setLevel(logging.WARNING)
        with asked():
            settings = ServeSettings(
                models=named_models(models),
                host=host,
                port=port,
                api_key=key_of_environment(),
                certificate=tls_certificate,
                certificate_key=tls_key,
                insecure=insecure,
                queue=queue,
                deadline_s=deadline,
                keepalive_s=keepalive,
                max_clients=max_clients,
                max_message_bytes=int(max_message_mb * 1e6),
                threads=threads,
                device=device,
                renamed=renames(rename or []),
            )
            settings.check()
            for path in settings.models.values():
                require_file(path, "a GGUF")

        async def run() -> None:
            server, ready = Server(settings), asyncio.Event()
            running = asyncio.create_task(server.run(ready))
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            scheme = "ws" if tls_certificate is None else "wss"
            if ready.is_set():
                for name in server.models:
                    typer.echo(f"{name}: {scheme}://{host}:{server.port}/{name}")
            waiting.cancel()
            await running

        try:
            asyncio.run(run())
        except OSError as error:
            raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}") from error
