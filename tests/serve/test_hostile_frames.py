"""What is no websocket, or wastes a server's time and memory is cut off, and others are served."""

import resource
import socket
import struct
import time

import msgpack
import numpy as np
import psutil
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from served import Served, observation, page, started, wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from actquant.serve.messages import pack

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BINARY, CLOSE = 0x82, 0x88
KEEPALIVE_S = 0.3


def raw_client(server: Served) -> socket.socket:
    """Returns a connection after its handshake and the server's greeting."""
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    raw.sendall(HANDSHAKE)
    with raw.makefile("rb") as stream:
        assert b"101" in stream.readline()
        while stream.readline() != b"\r\n":
            pass
        first, length = stream.read(2)
        assert first == BINARY and length == 126
        stream.read(struct.unpack(">H", stream.read(2))[0])
    return raw


def frames_until_the_end(raw: socket.socket) -> list[tuple[int, bytes]]:
    """Returns the first byte and content of what the server still says, none longer than 125."""
    data = b""
    with raw:
        try:
            while more := raw.recv(1000):
                data += more
        except ConnectionResetError:
            pass
    frames = []
    while len(data) > 1:
        size = data[1]
        frames.append((data[0], data[2 : 2 + size]))
        data = data[2 + size :]
    return frames


def still_serves(server: Served) -> None:
    policy = WebsocketClientPolicy(f"ws://127.0.0.1:{server.port}")
    assert policy.infer(observation())["actions"].shape == (3, 2)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (struct.pack(">BBQ", BINARY, 0x80 | 127, 10**9) + bytes(4), 1009),
        (struct.pack(">BBQ", BINARY, 0x80 | 127, 2**63 - 1) + bytes(4), 1009),
        (struct.pack(">BB", BINARY, 5) + b"hello", 1002),
        (struct.pack(">BB", 0x83, 0x80) + bytes(4), 1002),
        (struct.pack(">BB", 0xC2, 0x80) + bytes(4), 1002),
        (struct.pack(">BB", 0x80, 0x80) + bytes(4), 1002),
        (struct.pack(">BBH", 0x89, 0x80 | 126, 200) + bytes(204), 1002),
    ],
    ids=["1 GB", "8 EB", "unmasked", "unknown", "reserved bit", "continues nothing", "long ping"],
)
def test_a_frame_that_is_none_closes_its_connection(shared, frame, code):
    raw = raw_client(shared)
    raw.sendall(frame)
    (closing,) = [content for first, content in frames_until_the_end(raw) if first == CLOSE]
    assert struct.unpack(">H", closing[:2])[0] == code
    still_serves(shared)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: x\r\n" % k for k in range(10_000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\r\n\r\n\r\n",
        bytes(1000),
    ],
    ids=["long header", "long path", "many headers", "TLS", "nothing", "zeros"],
)
def test_a_request_that_is_none_is_cut_off(shared, head):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as raw:
        begin = time.monotonic()
        try:
            raw.sendall(head)
            while raw.recv(1000):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert time.monotonic() - begin < 15
    still_serves(shared)


def test_a_request_that_takes_forever_is_cut_off(shared):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as raw:
        begin = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for byte in HANDSHAKE * 10:
                raw.sendall(bytes([byte]))
                time.sleep(0.2)
                assert time.monotonic() - begin < 20
    still_serves(shared)


def test_many_who_never_ask_keep_nobody_out(shared):
    silent = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(100)]
    still_serves(shared)
    for each in silent:
        each.close()


def test_a_message_that_takes_forever_is_cut_off(serving):
    server = serving(keepalive_s=KEEPALIVE_S)
    raw = raw_client(server)
    raw.sendall(struct.pack(">BBQ", BINARY, 0x80 | 127, 10_000_000) + bytes(4))
    begin = time.monotonic()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while time.monotonic() - begin < 20:
            raw.sendall(b"x")
            time.sleep(0.02)
    codes = [content[:2] for first, content in frames_until_the_end(raw) if first == CLOSE]
    assert codes in ([struct.pack(">H", 1011)], [])  # not there where the connection was reset
    still_serves(server)


def test_a_client_that_answers_pings_stays(serving):
    server = serving(keepalive_s=KEEPALIVE_S)
    with connect(f"ws://127.0.0.1:{server.port}", compression=None) as quiet:
        quiet.recv(10)
        time.sleep(6 * KEEPALIVE_S)
        quiet.send(pack(observation()))
        assert isinstance(quiet.recv(10), bytes)


def test_messages_sent_without_waiting_are_answered_in_turn(shared):
    with connect(f"ws://127.0.0.1:{shared.port}", compression=None) as eager:
        eager.recv(10)
        for _ in range(20):
            eager.send(pack(observation() | {"actquant": {"seed": 3}}))
        answers = [msgpack.unpackb(eager.recv(10)) for _ in range(20)]
    assert len({answer["actions"][b"data"] for answer in answers}) == 1


def test_a_client_that_reads_nothing_keeps_nobody_waiting(serving):
    server = serving(keepalive_s=KEEPALIVE_S)
    message = pack(observation())
    frame = struct.pack(">BBH", BINARY, 0x80 | 126, len(message)) + bytes(4) + message
    deaf = raw_client(server)
    deaf.settimeout(1.0)
    try:
        for _ in range(100_000):
            deaf.sendall(frame)
    except (TimeoutError, ConnectionResetError, BrokenPipeError):
        pass
    still_serves(server)
    deaf.close()


def hostile(url: str) -> None:
    """Does what a client should not, in all the ways that are refused."""
    array = {b"__ndarray__": True, b"dtype": "<f4", b"data": b"", b"shape": [2**28]}
    messages = [
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        pack({"state": array}),
        msgpack.packb({"state": [0.0] * 1_000_000}),
        msgpack.packb({f"{k}": k for k in range(100_000)}),
        pack(observation() | {"observation.images.scene": np.zeros((1000, 1000, 3))}),
        pack(observation() | {"task": "x" * 1_000_000}),
        b"\xff" * 5_000_000,
    ]
    for message in messages:
        with connect(url, compression=None) as client:
            client.recv(10)
            client.send(message)
            try:
                while True:
                    client.recv(10)
            except ConnectionClosed:
                pass


def test_memory_does_not_grow_with_what_is_refused(kind, model):
    with started(kind, {"tiny": model}) as (process, address):
        watched = psutil.Process(process.pid)
        for _ in range(5):
            hostile(address)
        before = watched.memory_info().rss
        for _ in range(20):
            hostile(address)
        assert watched.memory_info().rss < before + 16e6


def test_files_that_run_out_stop_nobody_for_long(kind, model):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with started(kind, {"tiny": model}) as (process, address):
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (40, hard))
        port = int(address.split(":")[2].partition("/")[0])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        time.sleep(0.5)
        for each in silent:
            each.close()
        server = Served(port, process.pid, kind)
        wait_for(lambda: page(server, "/healthz")[0] == 200, "an answer")
        still_serves(server)
