"""One thread's sockets: listeners, connections, and a wait that is exact to microseconds.

Everything of the fake controller happens in one thread, between two ticks of the servo: no locks,
and no second thread to wait for Python's interpreter lock. `select` is used because `epoll`
waits in whole milliseconds.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

_LARGEST_BACKLOG = 1 << 18  # bytes unsent, before a connection is given up


class Loop:
    """The selector, and messages that are to be sent later."""

    def __init__(self) -> None:
        self._selector = selectors.SelectSelector()
        self._later: deque[tuple[float, Connection, bytes]] = deque()

    def watch(self, item, events: int, handler: Callable[[int], None]) -> None:
        """Calls `handler` with the events of a file object; replaces what was watched of it."""
        try:
            self._selector.modify(item, events, handler)
        except KeyError:
            self._selector.register(item, events, handler)

    def unwatch(self, item) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(item)

    def send_later(self, due: float, connection: Connection, data: bytes) -> None:
        """Sends `data` at the time `due` (time.monotonic); in the order of the calls."""
        self._later.append((due, connection, data))

    def run_until(self, deadline: float) -> None:
        """Serves sockets until `deadline` (time.monotonic), at least once."""
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                _, connection, data = self._later.popleft()
                connection.send_now(data)
            until = min(deadline, self._later[0][0]) if self._later else deadline
            for key, events in self._selector.select(max(0.0, until - now)):
                key.data(events)
            if time.monotonic() >= deadline:
                return


class Connection(ABC):
    """One accepted TCP connection."""

    def __init__(self, loop: Loop, sock: socket.socket, on_close: Callable[[Connection], None]):
        self._loop, self._socket, self._on_close = loop, sock, on_close
        self._unsent = b""
        self.is_open = True
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.watch(sock, selectors.EVENT_READ, self._on_event)

    @abstractmethod
    def on_data(self, data: bytes) -> None:
        """Takes what has arrived; never empty."""

    @property
    def is_backed_up(self) -> bool:
        """Whether the other side is not reading what it is sent."""
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        self.send_now(data)

    def send_now(self, data: bytes) -> None:
        if not self.is_open:
            return
        self._unsent += data
        self._flush()

    def close(self, abort: bool = False) -> None:
        """Closes, with a reset instead of a proper end where `abort`."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.unwatch(self._socket)
        if abort:
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()
        self._on_close(self)

    def _on_event(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if not events & selectors.EVENT_READ or not self.is_open:
            return
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.on_data(data)
        else:
            self.close()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if len(self._unsent) > _LARGEST_BACKLOG:
            logger.warning("a client does not read what it asked for; its connection is closed")
            self.close(abort=True)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._loop.watch(self._socket, events, self._on_event)


class LineConnection(Connection):
    """A connection whose messages are lines of text."""

    def __init__(self, loop: Loop, sock: socket.socket, on_close: Callable[[Connection], None]):
        super().__init__(loop, sock, on_close)
        self._partial = b""

    def on_data(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if self.is_open:
                self.on_line(line.decode("utf-8", "replace").strip("\r"))

    @abstractmethod
    def on_line(self, line: str) -> None:
        """Takes one line, without its end."""


class Service:
    """A listening port and its connections."""

    def __init__(self, loop: Loop, host: str, port: int, accept: Callable[..., Connection]):
        self._loop, self._address, self._accept = loop, (host, port), accept
        self.connections: list[Connection] = []
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Listens, unless it does already."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._address)
        listener.listen(8)
        listener.setblocking(False)
        self._loop.watch(listener, selectors.EVENT_READ, self._on_connect)
        self._listener = listener

    def refuse(self) -> None:
        """Stops listening, so that connecting is refused; open connections stay."""
        if self._listener is not None:
            self._loop.unwatch(self._listener)
            self._listener.close()
            self._listener = None

    def drop(self, abort: bool = False) -> None:
        """Closes all connections."""
        for connection in list(self.connections):
            connection.close(abort)

    def _on_connect(self, _: int) -> None:
        assert self._listener is not None
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        connection = self._accept(self._loop, sock, self._forget)
        if connection.is_open:  # what greets may find it closed already
            self.connections.append(connection)

    def _forget(self, connection: Connection) -> None:
        with contextlib.suppress(ValueError):
            self.connections.remove(connection)
