"""Messages between the servo process and its parent, whole or not at all, never waited for."""

from __future__ import annotations

import pickle
import socket

_LARGEST = 1 << 17  # bytes of a message; a larger one would come without its end
_SEND_BUFFER = 1 << 20


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a pair of sockets that keep messages apart.

    Messages are pickled: both ends are this package, on one machine, in an unnamed pair.
    """

    def __init__(self, sock: socket.socket):
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ends[0]), cls(ends[1])

    @classmethod
    def of(cls, descriptor: int) -> Channel:
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: object) -> bool:
        """Returns whether there was space for it.

        Raises:
            ChannelClosed
            ValueError: it is too large ever to be sent.
        """
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if len(data) > _LARGEST:
            raise ValueError(f"a message of {len(data)} bytes, at most {_LARGEST} can be sent")
        try:
            self._socket.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        return True

    def receive(self) -> list:
        """Returns all messages that have come.

        Raises:
            ChannelClosed: there is none, and the other end is gone.
        """
        messages: list = []
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return messages
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not data:
                if messages:
                    return messages
                raise ChannelClosed("the other end is closed")
            messages.append(pickle.loads(data))

    def close(self) -> None:
        self._socket.close()
