"""The server: openpi's websocket protocol, and three pages over HTTP on the same port."""

from __future__ import annotations

import asyncio
import hmac
import http
import logging
import signal
import time
from typing import Any

import numpy as np
from actquant_runtime import ArgumentError, ModelFileError, PreviousChunk
from websockets.asyncio.server import Server as WebsocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from actquant.serve.messages import MessageError, pack, unpack
from actquant.serve.metrics import Metrics
from actquant.serve.models import BusyModelError, Loaded, ServedModel
from actquant.serve.session import OPTIONS, STATE, Session
from actquant.serve.settings import ServeSettings

log = logging.getLogger(__name__)

GOING_AWAY, BAD_MESSAGE, FAILED, TRY_LATER = 1001, 1008, 1011, 1013
"""Codes of a websocket's end (RFC 6455)."""
HANDSHAKE_S = 10.0


class Server:
    """Serves policy files until it is told to stop.

    Opens all files at once. Raises ServeError for settings that make no sense,
    actquant_runtime.ModelFileError for a file that cannot be served.
    """

    def __init__(self, settings: ServeSettings) -> None:
        settings.check()
        self.settings = settings
        self.metrics = Metrics()
        self._tls = settings.tls()
        self.models = {
            name: ServedModel(
                name,
                path,
                self.metrics,
                threads=settings.threads,
                device=settings.device,
                queue=settings.queue,
                deadline_s=settings.deadline_s,
                renamed=settings.renamed or {},
            )
            for name, path in settings.models.items()
        }
        self._first = next(iter(self.models.values()))
        self._clients = self._in_work = 0
        self._stopping = asyncio.Event()
        self.port = settings.port
        """The one that is listened on, once `run` has begun."""

    def stop(self) -> None:
        """Lets `run` end: what is being computed is answered, then all connections are closed."""
        self._stopping.set()

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """Serves until `stop`, SIGINT or SIGTERM. Raises OSError if it cannot listen."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self.stop)
            except (NotImplementedError, RuntimeError, ValueError):
                break  # not the main thread: whoever started it stops it
        async with serve(
            self._serve_client,
            self.settings.host,
            self.settings.port,
            process_request=self._answer_http,
            ssl=self._tls,
            compression=None,
            max_size=self.settings.max_message_bytes,
            open_timeout=HANDSHAKE_S,
            ping_interval=self.settings.keepalive_s,
            ping_timeout=self.settings.keepalive_s,
            server_header="actquant",
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            watcher = asyncio.create_task(self._watch_files())
            if ready is not None:
                ready.set()
            await self._stopping.wait()
            watcher.cancel()
            await self._drain(server)
        for model in self.models.values():
            model.close()

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watch_s)
            for model in self.models.values():
                await model.look_for_another_file()

    async def _drain(self, server: WebsocketServer) -> None:
        """Waits until what was begun is answered, at most as long as a request may wait."""
        end = time.monotonic() + self.settings.deadline_s
        while self._in_work and time.monotonic() < end:
            await asyncio.sleep(0.01)
        server.close(code=GOING_AWAY, reason="the server stops")

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Returns the answer of a page, or of a refused handshake; None lets a client in."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz":
            broken = [name for name, model in self.models.items() if model.is_broken]
            if self._stopping.is_set():
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "stopping\n")
            if broken:
                text = f"broken: {', '.join(broken)}\n"
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, text)
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/metrics":
            return connection.respond(http.HTTPStatus.OK, self.metrics.text())
        if not self._is_allowed(request):
            text = "wanted: the header 'Authorization: Api-Key KEY'\n"
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, text)
        if self._model(path) is None:
            text = f"no such model; there are: {', '.join(self.models)}\n"
            return connection.respond(http.HTTPStatus.NOT_FOUND, text)
        if self._stopping.is_set() or self._clients >= self.settings.max_clients:
            text = "stopping\n" if self._stopping.is_set() else "too many clients\n"
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, text)
        return None

    def _is_allowed(self, request: Request) -> bool:
        if self.settings.api_key is None:
            return True
        given = request.headers.get_all("Authorization")
        wanted = f"Api-Key {self.settings.api_key}"
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), wanted.encode())

    def _model(self, path: str) -> ServedModel | None:
        name = path.strip("/")
        return self.models.get(name) if name else self._first

    async def _serve_client(self, connection: ServerConnection) -> None:
        """Greets a client with what the policy is, then answers its messages one by one."""
        assert connection.request is not None
        model = self._model(connection.request.path.partition("?")[0])
        assert model is not None
        self._clients += 1
        self.metrics.sessions.labels(model.name).inc()
        try:
            loaded = model.loaded
            session = Session(loaded.names, loaded.about["observation_steps"])
            await connection.send(pack(greeting(model)))
            previous_s = None
            async for data in connection:
                begin = time.perf_counter()
                if not await self._answer(connection, model, session, data, previous_s):
                    return
                previous_s = time.perf_counter() - begin
                self.metrics.answer.labels(model.name).observe(previous_s)
        except ConnectionClosed:
            log.debug("%s: a client has gone", model.name)
        finally:
            self._clients -= 1
            self.metrics.sessions.labels(model.name).dec()

    async def _answer(
        self,
        connection: ServerConnection,
        model: ServedModel,
        session: Session,
        data: str | bytes,
        previous_s: float | None,
    ) -> bool:
        """Answers a message; returns whether the connection goes on."""
        self._in_work += 1
        try:
            answer = await self._chunk(model, session, data, previous_s)
            await connection.send(answer)
            outcome, code, text = "ok", None, ""
        except (MessageError, ArgumentError) as error:
            outcome, code, text = "bad message", BAD_MESSAGE, str(error)
        except BusyModelError as error:
            outcome, code, text = "busy", TRY_LATER, str(error)
        except ModelFileError as error:
            outcome, code, text = "model file", FAILED, str(error)
        except ConnectionClosed:
            raise
        except Exception as error:  # whatever fails, the server and the other clients go on
            log.exception("%s: a chunk failed", model.name)
            outcome, code, text = "failed", FAILED, f"{type(error).__name__}: {error}"
        finally:
            self._in_work -= 1
        self.metrics.requests.labels(model.name, outcome).inc()
        if code is None:
            return True
        await connection.send(text)
        await connection.close(code, outcome)
        return False

    async def _chunk(
        self, model: ServedModel, session: Session, data: str | bytes, previous_s: float | None
    ) -> bytes:
        if isinstance(data, str):
            raise MessageError("a message is binary (msgpack), not text")
        begin = time.perf_counter()
        message = unpack(data)
        asked = session.take(message)

        def act(loaded: Loaded) -> tuple[np.ndarray, float]:
            started = time.perf_counter()
            actions = loaded.runtime.act(
                asked.observation, asked.noise, asked.seed, _guided(loaded, asked.previous)
            )
            return actions, time.perf_counter() - started

        actions, inference_s = await model.run(act)
        session.keep(actions)
        self.metrics.inference.labels(model.name).observe(inference_s)
        timing = {"infer_ms": 1e3 * (time.perf_counter() - begin)}
        if previous_s is not None:
            timing["prev_total_ms"] = 1e3 * previous_s
        answer: dict[str, Any] = {
            "actions": actions,
            "policy_timing": {"infer_ms": 1e3 * inference_s},
            "server_timing": timing,
        }
        if STATE in asked.observation:
            answer["state"] = asked.observation[STATE]
        return pack(answer)


def _guided(loaded: Loaded, previous: PreviousChunk | None) -> PreviousChunk | None:
    if previous is not None and not loaded.about["supports_guidance"]:
        raise MessageError(f"this policy cannot be guided by its last chunk: leave out {OPTIONS}")
    return previous


def greeting(model: ServedModel) -> dict[str, Any]:
    """Returns what a client is told first: what the policy takes and gives."""
    about = model.loaded.about
    image = about["image"]
    return {
        "model": model.name,
        "policy": about["name"],
        "family": about["family"],
        "inputs": model.loaded.names.wanted,
        "cameras": about["cameras"],
        "optional_cameras": about["optional_cameras"],
        "image_size": [image["source_height"], image["source_width"]],
        "state_names": about["state"]["names"],
        "action_names": about["action"]["names"],
        "observation_steps": about["observation_steps"],
        "chunk_length": about["action"]["chunk_length"],
        "steps_per_chunk": about["action"]["steps_per_chunk"],
        "control_rate_hz": about["control_rate_hz"],
        "noise_shape": about["noise_shape"],
        "supports_guidance": about["supports_guidance"],
    }
