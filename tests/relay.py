"""A network in one process: TCP ports of one loopback address on another one, with the faults that
a cable, a switch or a radio link has."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

RETRANSMISSION_S = 0.2
"""How long TCP waits at least (Linux) before it sends again what was lost; what follows waits."""


class Relay:
    """Listens at `host` and passes on to `target`, in order, as TCP does; a context manager.

    Attributes, to be set at any time:
        delay_s, jitter_s: each piece of a stream takes `delay_s` and up to `jitter_s` more, each
            way.
        loss: how often a piece is lost, from 0 to 1, and comes RETRANSMISSION_S later.
    """

    def __init__(self, host: str, target: str, ports: Sequence[int | tuple[int, int]]) -> None:
        """ports: each the same at both, or (at `host`, at `target`)."""
        self.delay_s = self.jitter_s = self.loss = 0.0
        self._host, self._target = host, target
        self._ports = [(port, port) if isinstance(port, int) else port for port in ports]
        self._chance = random.Random(0)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._is_plugged = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")

    def __enter__(self) -> Relay:
        self._thread.start()
        self._call(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def pull(self) -> None:
        """Pulls the cable: nothing passes any more, and nobody is told."""
        self._call(self._plug, False)

    def plug(self) -> None:
        """Plugs it in again: what was sent meanwhile comes."""
        self._call(self._plug, True)

    def reset(self) -> None:
        """Resets all connections at both ends; new ones are let through."""
        self._call(self._reset)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        asyncio.run_coroutine_threadsafe(function(*arguments), self._loop).result()

    async def _listen(self) -> None:
        self._is_plugged.set()
        self._servers = [
            await asyncio.start_server(lambda r, w, port=there: self._accept(r, w, port),
                                       self._host, here)
            for here, there in self._ports
        ]  # fmt: skip

    async def _plug(self, is_in: bool) -> None:
        self._is_plugged.set() if is_in else self._is_plugged.clear()

    async def _reset(self) -> None:
        for writer in list(self._writers):
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        own, writers = asyncio.current_task(), list(self._writers)
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        await self._is_plugged.wait()
        try:
            there = await asyncio.open_connection(self._target, port)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, there[1])
        self._writers.update(ends)
        for end in ends:
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there[1]))
                group.create_task(self._pass(there[0], writer))
        except* OSError:
            pass
        finally:
            self._writers.difference_update(ends)
            for end in ends:
                end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(due - self._loop.time())
                await self._is_plugged.wait()
                if not piece:
                    writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            due, piece = 0.0, b"."
            while piece:
                await self._is_plugged.wait()
                piece = await reader.read(1 << 16)
                slow = self._chance.uniform(0.0, self.jitter_s)
                slow += RETRANSMISSION_S if self._chance.random() < self.loss else 0.0
                due = max(due, self._loop.time() + self.delay_s + slow)
                await pieces.put((due, piece))
