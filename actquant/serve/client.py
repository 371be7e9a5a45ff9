"""A policy behind `actquant serve`: acts as `actquant_runtime.Runtime` does."""

from __future__ import annotations

import math
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from actquant_runtime import PreviousChunk
from numpy.typing import ArrayLike, NDArray
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from actquant.common.errors import ActquantError
from actquant.serve.messages import MessageError, pack, unpack
from actquant.serve.session import OPTIONS, STATE, TASK
from actquant.serve.settings import key_of_environment

MOST_ANSWER_BYTES = 64 << 20
FAREWELL_S = 1.0
"""How long a server may take to say good-bye."""
GREETING = (
    "inputs", "cameras", "optional_cameras", "image_size", "state_names", "action_names",
    "observation_steps", "chunk_length", "steps_per_chunk", "control_rate_hz", "noise_shape",
    "supports_guidance",
)  # fmt: skip
"""What is needed of the server's first message."""


class RemoteError(ActquantError):
    """A served policy cannot be reached, or has refused."""


class RemoteRuntime:
    """Asks a server for chunks. Safe to use from several threads; calls run one by one.

    Every message says all that its chunk depends on, so that a server that was restarted between
    two calls is connected to again without a difference.

    url: ws://HOST:PORT or wss://HOST:PORT, and /NAME for one of several policies; api_key: where
    the server wants one, by default what $ACTQUANT_API_KEY has; timeout_s: how long connecting and
    one chunk may take; certificate: of the authority of a server with TLS (PEM), where the system
    does not know it.

    Raises RemoteError if it cannot be reached or lets nobody in, ServeError for a key that cannot
    be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        certificate: Path | None = None,
    ) -> None:
        self.url, self._timeout_s = url, timeout_s
        key = key_of_environment() if api_key is None else api_key
        self._headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
        self._tls = None
        if url.startswith("wss:"):
            try:
                self._tls = ssl.create_default_context(cafile=certificate)
            except OSError as error:
                raise RemoteError(f"{certificate} is no certificate: {error}") from error
        self._lock = threading.Lock()
        self._connection, self._greeting = self._connect()

    def describe(self) -> dict[str, Any]:
        """Returns what the server says of the policy, as far as `Runtime.describe` has it."""
        said = self._greeting
        height, width = said["image_size"]
        return {
            "cameras": said["cameras"],
            "optional_cameras": said["optional_cameras"],
            "image": {"height": height, "width": width},
            "state": {"names": said["state_names"]},
            "prompt": {} if TASK in said["inputs"] else None,
            "action": {
                "names": said["action_names"],
                "chunk_length": said["chunk_length"],
                "steps_per_chunk": said["steps_per_chunk"],
            },
            "observation_steps": said["observation_steps"],
            "control_rate_hz": said["control_rate_hz"],
            "noise_shape": said["noise_shape"],
            "supports_guidance": said["supports_guidance"],
        }

    def act(
        self,
        observation: Mapping[str, Any],
        noise: ArrayLike | None = None,
        seed: int | None = None,
        previous: PreviousChunk | None = None,
    ) -> NDArray[np.float32]:
        """Returns actions [chunk_length, action dimension] in the robot's units; see `Runtime.act`.

        Raises RemoteError: the server's own words, or why there is no answer.
        """
        options: dict[str, Any] = {"whole": True}
        if noise is not None:
            options["noise"] = np.asarray(noise, np.float32)
        elif seed is not None:
            options["seed"] = seed
        if previous is not None:
            options |= {
                "previous": np.asarray(previous.actions, np.float32),
                "delay": previous.delay,
                "execution_horizon": previous.execution_horizon,
                "max_guidance": previous.max_guidance,
                "schedule": previous.schedule,
            }
        wanted = (*self._greeting["cameras"], STATE, TASK)
        message = {key: observation[key] for key in wanted if key in observation}
        return self._ask(pack({**message, OPTIONS: options}))

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _connect(self) -> tuple[ClientConnection, dict[str, Any]]:
        try:
            connection = connect(
                self.url,
                ssl=self._tls,
                additional_headers=self._headers,
                open_timeout=self._timeout_s,
                close_timeout=FAREWELL_S,
                compression=None,
                max_size=MOST_ANSWER_BYTES,
            ).__enter__()  # websockets warns of connections outside `with`; `close` ends this one
        except InvalidURI as error:
            raise RemoteError(f"{self.url!r} is no address such as ws://HOST:PORT") from error
        except (InvalidHandshake, OSError) as error:
            raise RemoteError(f"no policy at {self.url}: {_reason(error)}") from error
        _limit_sending(connection.socket, self._timeout_s)
        try:
            greeting = self._unpacked(self._received(connection))
            if missing := [key for key in GREETING if key not in greeting]:
                raise RemoteError(
                    f"{self.url} is no `actquant serve` of this version: it does not say "
                    f"{', '.join(missing)}"
                )
        except RemoteError:
            connection.close()
            raise
        except ConnectionClosed as error:
            raise RemoteError(f"{self.url} hung up without a word: {error}") from error
        return connection, greeting

    def _ask(self, message: bytes) -> NDArray[np.float32]:
        with self._lock:
            try:
                answer = self._answer(message)
            except ConnectionClosed:  # nothing but the message decides what it is answered
                before = self._greeting
                self._connection, now = self._connect()
                if now != before:
                    self._connection.close()
                    raise RemoteError(f"{self.url} serves another policy now") from None
                try:
                    answer = self._answer(message)
                except ConnectionClosed as error:
                    raise RemoteError(f"{self.url} closed the connection: {error}") from error
        actions = self._unpacked(answer).get("actions")
        if not isinstance(actions, np.ndarray):
            raise RemoteError(f"{self.url} gave an answer without actions")
        return np.array(actions, np.float32)

    def _unpacked(self, data: bytes) -> dict[str, Any]:
        try:
            return unpack(data)
        except MessageError as error:
            raise RemoteError(f"{self.url} gave {error}") from error

    def _answer(self, message: bytes) -> bytes:
        self._connection.send(message)
        return self._received(self._connection)

    def _received(self, connection: ClientConnection) -> bytes:
        try:
            answer = connection.recv(timeout=self._timeout_s)
        except TimeoutError as error:
            connection.close()
            raise RemoteError(f"{self.url} gave no answer in {self._timeout_s:g} s") from error
        if isinstance(answer, str):
            raise RemoteError(f"{self.url}: {answer}")
        return answer


def _limit_sending(connection: socket.socket, seconds: float) -> None:
    """Has sending fail where nothing is taken for that long, as behind a cable that was pulled;
    otherwise it takes the system's quarter of an hour."""
    microseconds, whole = math.modf(seconds)
    limit = struct.pack("ll", int(whole), int(1e6 * microseconds))
    with suppress(OSError):  # of a server that has hung up, its last word is still to be read
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _reason(error: Exception) -> str:
    """Returns the server's own words where it has refused, and the error's else."""
    response = getattr(error, "response", None)
    body = getattr(response, "body", None)
    return body.decode(errors="replace").strip() if body else str(error)
