"""A bad network between client and server: calls go on or end with an error that says why, and the
server keeps nothing of who is gone."""

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from actquant_runtime import Runtime
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from relay import Relay
from served import Served, observation, sessions, wait_for
from websockets.sync.client import connect

from actquant.serve.client import RemoteError, RemoteRuntime
from actquant.serve.messages import pack

SEED = {"actquant": {"seed": 7}}


@contextmanager
def relayed(server: Served) -> Iterator[tuple[Relay, str]]:
    """Yields a network in front of a server, and its address there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Relay("127.0.0.1", "127.0.0.1", [(port, server.port)]) as relay:
        yield relay, f"ws://127.0.0.1:{port}"


@pytest.mark.parametrize(
    "fault",
    [
        *({"delay_s": s, "jitter_s": s} for s in (0.01, 0.05, 0.2)),
        {"loss": 0.05},
    ],
    ids=str,
)
def test_a_slow_network_changes_no_chunk(serving, model, fault) -> None:
    expected = Runtime(model).act(observation(), seed=7)
    with relayed(serving()) as (relay, url):
        for name, value in fault.items():
            setattr(relay, name, value)
        remote = RemoteRuntime(url)
        robot = WebsocketClientPolicy(url)
        for _ in range(3):
            assert np.array_equal(remote.act(observation(), seed=7), expected)
            assert np.array_equal(robot.infer(observation() | SEED)["actions"], expected)
        remote.close()


@pytest.mark.parametrize("seconds", [0.1, 1.0, 10.0])
def test_a_call_waits_for_a_cable_that_is_plugged_in_again(serving, model, seconds) -> None:
    expected = Runtime(model).act(observation(), seed=7)
    server = serving()
    with relayed(server) as (relay, url):
        remote = RemoteRuntime(url, timeout_s=60.0)
        relay.pull()
        threading.Timer(seconds, relay.plug).start()
        begin = time.monotonic()
        assert np.array_equal(remote.act(observation(), seed=7), expected)
        assert time.monotonic() - begin > 0.9 * seconds
        assert sessions(server) == 1
        remote.close()


def test_a_call_ends_where_the_cable_stays_out_and_the_next_connects_again(serving, model) -> None:
    expected = Runtime(model).act(observation(), seed=7)
    with relayed(serving()) as (relay, url):
        remote = RemoteRuntime(url, timeout_s=2.0)
        relay.pull()
        with pytest.raises(RemoteError, match=f"{url} gave no answer in 2 s"):
            remote.act(observation(), seed=7)
        with pytest.raises(RemoteError, match=f"no policy at {url}: timed out"):
            remote.act(observation(), seed=7)
        relay.plug()
        remote = RemoteRuntime(url, timeout_s=60.0)
        assert np.array_equal(remote.act(observation(), seed=7), expected)
        remote.close()


def test_a_message_that_does_not_get_away_ends_its_call(serving) -> None:
    """One that is larger than what the system takes of it."""
    with relayed(serving()) as (relay, url):
        remote = RemoteRuntime(url, timeout_s=2.0)
        relay.pull()
        with pytest.raises(RemoteError, match=f"no policy at {url}: timed out"):
            remote.act(observation() | {"task": "push " * 10_000_000}, seed=7)


def test_after_a_reset_a_call_asks_again_and_openpis_client_is_told(serving, model) -> None:
    expected = Runtime(model).act(observation(), seed=7)
    server = serving()
    with relayed(server) as (relay, url):
        remote, robot = RemoteRuntime(url), WebsocketClientPolicy(url)
        wait_for(lambda: sessions(server) == 2, "two sessions")
        relay.reset()
        wait_for(lambda: sessions(server) == 0, "no session")
        assert np.array_equal(remote.act(observation(), seed=7), expected)
        with pytest.raises(Exception, match="no close frame"):
            robot.infer(observation())
        assert sessions(server) == 1
        remote.close()


def test_a_client_behind_a_dead_cable_is_given_up(serving) -> None:
    server = serving(keepalive_s=0.5)
    with relayed(server) as (relay, url), connect(url, compression=None) as silent:
        silent.recv(20)
        assert sessions(server) == 1
        relay.pull()
        wait_for(lambda: sessions(server) == 0, "no session")
        relay.plug()


def test_nothing_is_left_of_clients_that_vanish_at_any_moment(serving) -> None:
    """In the handshake, within a message, before and within the answer."""
    server = serving()
    address = ("127.0.0.1", server.port)
    message = pack(observation())
    frame = struct.pack(">BBH", 0x82, 0x80 | 126, len(message)) + bytes(4) + message
    request = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()

    def vanish(number: int) -> None:
        whole = request + frame * 3
        with socket.create_connection(address, timeout=20) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sendall(whole[: len(whole) * number // 40])
            if number % 3:
                raw.recv(100)

    def held() -> tuple[int, int]:
        process = f"/proc/{server.pid}"
        return len(os.listdir(f"{process}/fd")), len(os.listdir(f"{process}/task"))

    for number in range(1, 41):
        vanish(number)
    wait_for(lambda: sessions(server) == 0, "no session")
    before = held()
    for number in range(1, 41):
        vanish(number)
    wait_for(lambda: sessions(server) == 0 and held() <= before, f"{before}, not {held()}")
    robot = WebsocketClientPolicy(f"ws://127.0.0.1:{server.port}")
    assert robot.infer(observation())["actions"].shape == (3, 2)
