"""Whatever a client sends: a message is taken, or refused by MessageError, and the server goes on.
Bytes are made by hypothesis: of nothing, and of real messages that were changed."""

import msgpack
import numpy as np
import pytest
from actquant_runtime import ArgumentError, PreviousChunk, Runtime
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from served import NATIVE, PYTHON, SCENE, observation, running
from websockets.sync.client import connect

from actquant.serve.messages import MessageError, pack, unpack
from actquant.serve.session import Asked, Names, Session

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REAL = pack(observation() | {"actquant": {"seed": 1, "executed": 1, "delay": 1}})

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
arrays = st.builds(
    lambda dtype, shape, data: {
        b"__ndarray__": True, b"dtype": dtype, b"shape": shape, b"data": data
    },
    st.sampled_from(["<f4", "|u1", "<i8", ">f2", "|b1", "|O8", "<U1", "V4", "f4,f4", ""]),
    st.lists(st.integers(-1, 2**63 - 1) | st.integers(0, 4), max_size=9),
    st.binary(max_size=64),
)  # fmt: skip
values = st.recursive(
    scalars | st.binary(max_size=20) | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
keys = st.sampled_from([*observation(), "prompt", "actquant", "scene"]) | st.text(max_size=8)
options = st.dictionaries(
    st.sampled_from(
        ["seed", "reset", "executed", "delay", "execution_horizon", "previous", "max_guidance",
         "schedule", "noise", "whole"]
    ),
    values,
)  # fmt: skip
messages = st.dictionaries(keys, values, max_size=5).map(
    lambda message: msgpack.packb(message, use_bin_type=True)
)
real_but = st.dictionaries(keys, values, max_size=2) | options.map(lambda o: {"actquant": o})


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A real message in which some bytes are others, or whose end is missing."""
    data = bytearray(REAL)
    for at in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


@pytest.fixture(scope="module")
def runtime(model) -> Runtime:
    return Runtime(model, threads=1)


def acted(runtime: Runtime, data: bytes) -> None:
    """Does with a message what the server does, up to the actions."""
    about = runtime.describe()
    session = Session(Names(about, {}), about["observation_steps"])
    try:
        asked = session.take(unpack(data))
        assert isinstance(asked, Asked)
        actions = runtime.act(asked.observation, asked.noise, asked.seed, asked.previous)
    except (MessageError, ArgumentError) as error:
        assert str(error)
        return
    except RuntimeError as error:  # of a state beyond all measure
        assert "non-finite action" in str(error)
        return
    assert actions.shape == (3, 2) and np.isfinite(actions).all()
    session.keep(actions)


@unhurried
@given(st.binary(max_size=200) | messages | changed())
@example(b"\xdf\xff\xff\xff\xff")  # a map of 2^32 - 1 entries
@example(b"\xdd\xff\xff\xff\xff" + b"\x90" * 9)
@example(b"\x91" * 5000)
@example(b"\xd4\xff\x00")  # a timestamp
def test_messages_of_all_kinds(runtime: Runtime, data: bytes) -> None:
    acted(runtime, data)


@unhurried
@given(real_but)
@example({"actquant": {"previous": np.zeros((2, 2), np.float32), "max_guidance": float("nan")}})
@example({"actquant": {"previous": np.zeros((), np.float32)}})
@example({"actquant": {"noise": np.zeros((3, 4), np.complex64).real, "delay": 2**63}})
@example({SCENE: np.zeros((0, 0, 3), np.uint8)})
@example({SCENE: [None, []]})
@example({"task": "a" * 1_000_000})
@example({"task": "\ud800"})
def test_real_messages_with_strange_parts(runtime: Runtime, strange: dict) -> None:
    try:
        data = pack(observation() | strange)
    except (ValueError, TypeError, OverflowError):  # msgpack cannot say it either
        return
    acted(runtime, data)


def answer_to(url: str, data: bytes) -> str | bytes:
    """Returns what a server says to a message: a chunk, or what is wrong."""
    with connect(url, compression=None) as client:
        client.recv(10)
        client.send(data)
        return client.recv(10)


def test_a_server_goes_on_after_all_of_them(shared) -> None:
    url = f"ws://127.0.0.1:{shared.port}"

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=200) | messages | changed())
    def survive(data: bytes) -> None:
        assert answer_to(url, data)

    survive()
    answer = answer_to(url, pack(observation()))
    assert isinstance(answer, bytes) and unpack(answer)["actions"].shape == (3, 2)


def test_both_servers_take_the_same_messages(model) -> None:
    with running(PYTHON, {"tiny": model}) as one, running(NATIVE, {"tiny": model}) as other:
        urls = [f"ws://127.0.0.1:{server.port}" for server in (one, other)]

        @settings(max_examples=200, deadline=None)
        @given(real_but)
        def agree(strange: dict) -> None:
            try:
                data = pack(observation() | strange)
            except (ValueError, TypeError, OverflowError):  # msgpack cannot say it either
                return
            first, second = (answer_to(url, data) for url in urls)
            assert type(first) is type(second), (first, second)

        agree()


def test_previous_actions_are_what_the_client_says(shared, model) -> None:
    first = np.ones((2, 2), np.float32)
    options = {"seed": 3, "previous": first, "delay": 1, "max_guidance": 2.0, "schedule": "ones"}
    message = pack(observation() | {"actquant": options})
    answer = answer_to(f"ws://127.0.0.1:{shared.port}", message)
    assert isinstance(answer, bytes)
    previous = PreviousChunk(first, 1, max_guidance=2.0, schedule="ones")
    expected = Runtime(model).act(observation(), seed=3, previous=previous)
    assert np.array_equal(unpack(answer)["actions"], expected)
