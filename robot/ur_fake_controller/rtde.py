"""The RTDE server (port 30004), protocol version 2.

Packets are big-endian: uint16 size (its own 3 bytes of header included), uint8 type, payload.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable
from itertools import chain
from socket import socket

from .net import Connection, Loop, Service
from .variables import FORMATS, Values, zero

logger = logging.getLogger(__name__)

PORT = 30004
PROTOCOL_VERSION = 2
_HEADER = struct.Struct(">HB")
_REQUEST_VERSION, _CONTROLLER_VERSION = 86, 118
_SETUP_OUTPUTS, _SETUP_INPUTS = 79, 73
_START, _PAUSE, _DATA = 83, 80, 85
_LARGEST_PACKET, _MOST_RECIPES = 0xFFFF, 0xFF  # what their fields can hold


def _packet(kind: int, payload: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind) + payload


def _names(payload: bytes) -> list[str]:
    return [name for name in payload.decode("ascii", "replace").split(",") if name]


class OutputRecipe:
    """Variables a client asked for, packed by one precompiled struct."""

    def __init__(self, number: int, names: list[str], types: list[str], every: int):
        self._number, self._names, self.every = number, names, every
        self._struct = struct.Struct(">HBB" + "".join(FORMATS[t] for t in types))

    @property
    def size(self) -> int:
        return self._struct.size

    def pack(self, values: dict[str, Values]) -> bytes:
        flat = chain.from_iterable(map(values.__getitem__, self._names))
        return self._struct.pack(self.size, _DATA, self._number, *flat)


class InputRecipe:
    """Variables a client writes."""

    def __init__(self, names: list[str], types: list[str]):
        self.names = names
        self._lengths = [len(zero(t)) for t in types]
        self._struct = struct.Struct(">" + "".join(FORMATS[t] for t in types))

    @property
    def size(self) -> int:
        return self._struct.size

    def unpack(self, data: bytes) -> dict[str, Values]:
        flat, values, at = self._struct.unpack(data), {}, 0
        for name, length in zip(self.names, self._lengths, strict=True):
            values[name] = flat[at : at + length]
            at += length
        return values


class RtdeServer:
    """All RTDE clients; input variables belong to the client that asked for them first.

    Args:
        outputs: type and present value of every output variable; `values` is what is sent.
        inputs: type of every input variable.
        on_input: called with the names of what a client has just written.
    """

    def __init__(
        self,
        loop: Loop,
        host: str,
        rate_hz: int,
        version: tuple[int, int, int, int],
        outputs: dict[str, tuple[str, Values]],
        inputs: dict[str, str],
        on_input: Callable[[dict[str, Values]], None],
    ):
        self.rate_hz, self.version = rate_hz, version
        self.output_types = {name: kind for name, (kind, _) in outputs.items()}
        self.values = {name: value for name, (_, value) in outputs.items()}
        self.input_types = inputs
        self.inputs = {name: zero(kind) for name, kind in inputs.items()}
        self.owners: dict[str, RtdeClient] = {}
        self.frozen = False
        self.delay = 0.0
        self.misfits = 0  # data packets that fitted no recipe
        self._on_input, self._ticks = on_input, 0
        self.service = Service(loop, host, PORT, lambda *args: RtdeClient(self, *args))

    def receive(self, values: dict[str, Values]) -> None:
        self.inputs.update(values)
        self._on_input(values)

    def publish(self) -> None:
        """Sends every started client its variables."""
        self._ticks += 1
        if self.frozen:
            return
        for client in list(self.service.connections):
            assert isinstance(client, RtdeClient)
            client.publish(self.values, self._ticks)

    def release(self, client: RtdeClient) -> None:
        self.owners = {name: owner for name, owner in self.owners.items() if owner is not client}


class RtdeClient(Connection):
    """One RTDE connection."""

    def __init__(
        self,
        server: RtdeServer,
        loop: Loop,
        sock: socket,
        on_close: Callable[[Connection], None],
    ):
        self._server = server
        self._buffer = b""
        self._outputs: list[OutputRecipe] = []
        self._inputs: dict[int, InputRecipe] = {}
        self._started = False
        self._handlers = {
            _REQUEST_VERSION: self._on_version,
            _CONTROLLER_VERSION: self._on_controller_version,
            _SETUP_OUTPUTS: self._on_setup_outputs,
            _SETUP_INPUTS: self._on_setup_inputs,
            _START: self._on_start,
            _PAUSE: self._on_pause,
            _DATA: self._on_input,
        }
        super().__init__(loop, sock, on_close)

    def publish(self, values: dict[str, Values], tick: int) -> None:
        if not self._started or self.is_backed_up:
            return
        for recipe in self._outputs:
            if tick % recipe.every == 0:
                self.send(recipe.pack(values))

    def send(self, data: bytes) -> None:
        if self._server.delay > 0:
            self._loop.send_later(time.monotonic() + self._server.delay, self, data)
        else:
            self.send_now(data)

    def close(self, abort: bool = False) -> None:
        self._server.release(self)
        super().close(abort)

    def on_data(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _HEADER.size and self.is_open:
            size, kind = _HEADER.unpack_from(self._buffer)
            if size < _HEADER.size:
                logger.warning("RTDE: a packet of %d bytes cannot be; the client is dropped", size)
                self.close()
                return
            if len(self._buffer) < size:
                return
            payload, self._buffer = self._buffer[_HEADER.size : size], self._buffer[size:]
            handler = self._handlers.get(kind)
            if handler is None:
                logger.warning("RTDE: unknown packet type %d", kind)
            else:
                handler(kind, payload)

    def _on_version(self, kind: int, payload: bytes) -> None:
        accepted = payload == struct.pack(">H", PROTOCOL_VERSION)
        self.send(_packet(kind, bytes([accepted])))

    def _on_controller_version(self, kind: int, payload: bytes) -> None:
        self.send(_packet(kind, struct.pack(">4I", *self._server.version)))

    def _on_setup_outputs(self, kind: int, payload: bytes) -> None:
        names = _names(payload[8:])
        rate = struct.unpack_from(">d", payload)[0] if len(payload) >= 8 else 0.0
        types = [self._server.output_types.get(name, "NOT_FOUND") for name in names]
        fits = names and "NOT_FOUND" not in types and 0 < rate <= self._server.rate_hz
        number = 0
        if fits and len(self._outputs) < _MOST_RECIPES:
            every = max(1, round(self._server.rate_hz / rate))
            recipe = OutputRecipe(len(self._outputs) + 1, names, types, every)
            if recipe.size <= _LARGEST_PACKET:
                self._outputs.append(recipe)
                number = len(self._outputs)
        self._answer_setup(kind, number, types)

    def _on_setup_inputs(self, kind: int, payload: bytes) -> None:
        names, owners = _names(payload), self._server.owners
        types = [
            "IN_USE"
            if owners.get(name, self) is not self
            else self._server.input_types.get(name, "NOT_FOUND")
            for name in names
        ]
        number = 0
        fits = names and not {"IN_USE", "NOT_FOUND"} & set(types)
        if fits and len(self._inputs) < _MOST_RECIPES:
            number = len(self._inputs) + 1
            self._inputs[number] = InputRecipe(names, types)
            owners.update(dict.fromkeys(names, self))
        self._answer_setup(kind, number, types)

    def _answer_setup(self, kind: int, number: int, types: list[str]) -> None:
        """Gives the recipe's number, 0 for none, and the types as far as there is room for them."""
        said = ",".join(types).encode()[: _LARGEST_PACKET - _HEADER.size - 1]
        self.send(_packet(kind, bytes([number]) + said))

    def _on_start(self, kind: int, payload: bytes) -> None:
        self._started = bool(self._outputs)
        self.send(_packet(kind, bytes([self._started])))

    def _on_pause(self, kind: int, payload: bytes) -> None:
        self._started = False
        self.send(_packet(kind, b"\x01"))

    def _on_input(self, kind: int, payload: bytes) -> None:
        recipe = self._inputs.get(payload[0]) if payload else None
        if recipe is None or len(payload) - 1 != recipe.size:
            self._server.misfits += 1
            # ur-rtde itself sends such packets, getForwardKinematics(q, tcp) for one.
            logger.warning("RTDE: a data packet of %d bytes fits no recipe", len(payload))
            return
        self._server.receive(recipe.unpack(payload[1:]))
