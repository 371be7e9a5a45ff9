"""The server as openpi's own client sees it."""

import os
import shutil
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from actquant_runtime import Runtime
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from policy_files import write_policy
from served import (
    SCENE,
    WRIST,
    RefusedError,
    Served,
    command,
    metric,
    observation,
    page,
    running,
    started,
    two_step_programs,
    wait_for,
    write_slow_policy,
)
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from actquant.serve.messages import pack


def client(server, path: str = "", key: str | None = None) -> WebsocketClientPolicy:
    return WebsocketClientPolicy(f"ws://127.0.0.1:{server.port}{path}", api_key=key)


def test_openpis_client_gets_the_runtimes_chunk(serving, model):
    policy = client(serving())
    about = policy.get_server_metadata()
    assert about["cameras"] == [SCENE, WRIST] and about["chunk_length"] == 3
    assert about["inputs"] == [SCENE, WRIST, "observation.state", "task"]
    seen = observation()
    expected = Runtime(model).act(seen, seed=7)
    for _ in range(2):
        answer = policy.infer(seen | {"actquant": {"seed": 7}})
        assert np.array_equal(answer["actions"], expected)
        assert answer["actions"].dtype == np.float32
        assert np.array_equal(answer["state"], seen["observation.state"])
        assert answer["policy_timing"]["infer_ms"] <= answer["server_timing"]["infer_ms"]
    assert "prev_total_ms" in answer["server_timing"]


def test_names_as_clients_have_them(serving, model):
    policy = client(serving(renamed={"base_rgb": SCENE}))
    seen = observation()
    expected = Runtime(model).act(seen, seed=1)
    options = {"actquant": {"seed": 1}}
    as_openpi = {
        "observation/images/scene": seen[SCENE],
        "wrist": seen[WRIST],
        "observation/state": seen["observation.state"].astype(np.float64),
        "prompt": seen["task"],
    }
    assert np.array_equal(policy.infer(as_openpi | options)["actions"], expected)
    renamed = {k: v for k, v in seen.items() if k != SCENE} | {"base_rgb": seen[SCENE]}
    assert np.array_equal(policy.infer(renamed | options)["actions"], expected)
    with pytest.raises(RuntimeError, match=f"{SCENE} is there twice"):
        policy.infer(renamed | {"scene": seen[SCENE]})


def test_what_a_client_sends_in_vain_is_left_out(serving, model, kind):
    policy = client(serving(renamed={"depth": ""}))
    seen = observation()
    answer = policy.infer(seen | {"depth": seen[SCENE], "actquant": {"seed": 1}})
    assert np.array_equal(answer["actions"], Runtime(model).act(seen, seed=1))
    renamed = {"base_rgb": "observation.images.third"}
    with (
        pytest.raises(RefusedError, match=r"third: this policy takes observation\.images\.scene"),
        running(kind, {"tiny": model}, renamed=renamed),
    ):
        pass


def test_real_time_chunking_over_the_wire(tmp_path, serving):
    from actquant_runtime import PreviousChunk

    path = write_policy(tmp_path / "guided.gguf")
    runtime = Runtime(path)
    assert runtime.describe()["supports_guidance"]
    policy = client(serving(models={"guided": path}))
    first = policy.infer(observation(0) | {"actquant": {"seed": 1}})["actions"]
    options = {"seed": 2, "executed": 1, "delay": 1, "execution_horizon": 2}
    second = policy.infer(observation(1) | {"actquant": options})["actions"]
    previous = PreviousChunk(first[1:], 1, 2)
    assert np.array_equal(second, runtime.act(observation(1), seed=2, previous=previous))
    assert not np.array_equal(second, runtime.act(observation(1), seed=2))
    # After a reset there is nothing to go on from.
    options["reset"] = True
    third = policy.infer(observation(1) | {"actquant": options})["actions"]
    assert np.array_equal(third, runtime.act(observation(1), seed=2))


def test_a_window_of_observations_is_kept_for_each_client(tmp_path, serving):
    path = write_policy(
        tmp_path / "two.gguf",
        keys={"actquant.observation.steps": ("uint32", 2)},
        programs=two_step_programs(),
    )
    runtime = Runtime(path)
    server = serving(models={"two": path})
    one, other = client(server), client(server)
    seen = [observation(0), observation(1)]

    def window(first: int, second: int):
        return {
            key: value if key == "task" else np.stack([seen[first][key], seen[second][key]])
            for key, value in seen[second].items()
        }

    options = {"actquant": {"seed": 3}}
    assert np.array_equal(
        one.infer(seen[0] | options)["actions"], runtime.act(window(0, 0), seed=3)
    )
    assert np.array_equal(
        one.infer(seen[1] | options)["actions"], runtime.act(window(0, 1), seed=3)
    )
    assert np.array_equal(
        other.infer(seen[1] | options)["actions"], runtime.act(window(1, 1), seed=3)
    )


def test_pages_and_metrics(serving):
    server = serving()
    assert page(server, "/healthz") == (200, "OK\n") == page(server, "/readyz")
    policy = client(server)
    policy.infer(observation())
    status, text = page(server, "/metrics")
    assert status == 200
    assert 'actquant_requests_total{model="tiny",outcome="ok"} 1.0' in text
    assert 'actquant_sessions{model="tiny"} 1.0' in text
    assert 'actquant_inference_seconds_count{model="tiny"} 1.0' in text


def test_models_by_name(tmp_path, serving, model):
    other = write_policy(tmp_path / "other.gguf", keys={"general.name": ("string", "other")})
    server = serving(models={"tiny": model, "other": other})
    assert client(server).get_server_metadata()["model"] == "tiny"
    assert client(server, "/tiny").get_server_metadata()["model"] == "tiny"
    assert client(server, "/other").get_server_metadata()["policy"] == "other"
    with pytest.raises(InvalidStatus) as caught:
        client(server, "/third")
    assert caught.value.response.status_code == 404
    assert b"tiny, other" in caught.value.response.body


def test_a_key_is_wanted_where_there_is_one(serving):
    server = serving(api_key="secret")
    for key in (None, "Secret", "secret2", "secre"):
        with pytest.raises(InvalidStatus) as caught:
            client(server, key=key)
        assert caught.value.response.status_code == 401
    assert client(server, key="secret").infer(observation())["actions"].shape == (3, 2)
    assert page(server, "/healthz")[0] == 200


def test_a_client_that_is_one_too_many(serving):
    server = serving(max_clients=1)
    first = client(server)
    with pytest.raises(InvalidStatus) as caught:
        client(server)
    assert caught.value.response.status_code == 503
    assert first.infer(observation())["actions"].shape == (3, 2)


def array(dtype: object, data: object, shape: object) -> dict:
    return {b"__ndarray__": True, b"dtype": dtype, b"data": data, b"shape": shape}


NAN_STATE = observation() | {"observation.state": np.full(3, np.nan, np.float32)}
BAD = {
    "a text": ("hello", "not text"),
    "no msgpack": (b"\xc1", "no msgpack message"),
    "nothing": (b"", "no msgpack message"),
    "cut": (pack(observation())[:-3], "no msgpack message"),
    "more than one": (pack({}) * 2, "no msgpack message"),
    "no map": (pack([1, 2]), "a map with texts"),
    "keys of bytes": (pack({b"task": "x"}), "a map with texts"),
    "nested deeply": (b"\x91" * 100_000, "no msgpack message"),
    "an announced giant": (b"\xdd\xff\xff\xff\xff", "no msgpack message"),
    "objects": (pack({"state": array("|O", b"12345678", [1])}), "wanted numbers"),
    "no dtype": (pack({"state": array(5, b"", [0])}), "wanted numbers"),
    "a structure": (pack({"state": array("V8", b"12345678", [1])}), "wanted numbers"),
    "too few bytes": (pack({"state": array("<f4", b"1234", [2])}), "with 4 bytes"),
    "a giant shape": (pack({"state": array("<f4", b"", [2**40, 2**40])}), "with 0 bytes"),
    "a negative shape": (pack({"state": array("<f4", b"", [-1])}), "of shape"),
    "no shape": (pack({"state": array("<f4", b"", None)}), "of shape"),
    "an unknown key": (pack(observation() | {"base_rgb": 1}), "unknown key 'base_rgb'"),
    "a missing camera": (pack({"task": "push"}), "expected"),
    "a small picture of floats": (
        pack(observation() | {"scene": np.zeros((4, 4, 3))}),
        "there twice",
    ),
    "another dtype": (pack(observation() | {SCENE: np.zeros((6, 12, 3))}), "expected uint8"),
    "another shape": (pack(observation() | {SCENE: np.zeros((3, 6, 12), np.uint8)}), "expected"),
    "no picture": (pack(observation() | {SCENE: "scene.png"}), "expected an array"),
    "a state of another length": (
        pack(observation() | {"observation.state": [1.0, 2.0]}),
        "expected",
    ),
    "a ragged state": (pack(observation() | {"observation.state": [1.0, [2.0]]}), "state"),
    "texts for a state": (pack(observation() | {"observation.state": ["a"] * 3}), "state"),
    "not a number": (pack(NAN_STATE), "nan"),
    "a task of bytes": (pack(observation() | {"task": b"push"}), "expected a text"),
    "an unknown option": (pack(observation() | {"actquant": {"sed": 1}}), "actquant.sed"),
    "a wrong option": (pack(observation() | {"actquant": {"seed": -1}}), "actquant.seed"),
    "no options": (pack(observation() | {"actquant": 3}), "actquant"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_told_of_and_ends_its_connection_alone(shared, name):
    message, words = BAD[name]
    good = client(shared)
    with connect(f"ws://127.0.0.1:{shared.port}") as bad:
        bad.recv()
        bad.send(message)
        error = bad.recv(timeout=20)
        assert isinstance(error, str) and words in error and len(error) < 600
        with pytest.raises(ConnectionClosed) as closed:
            bad.recv(timeout=20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    assert good.infer(observation())["actions"].shape == (3, 2)


def test_a_message_that_is_too_long_is_not_read(serving):
    server = serving(max_message_bytes=100_000)
    with connect(f"ws://127.0.0.1:{server.port}") as bad:
        bad.recv()
        with pytest.raises(ConnectionClosed) as closed:
            bad.send(bytes(200_000))
            bad.recv(timeout=20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    assert client(server).infer(observation())["actions"].shape == (3, 2)


def test_who_waits_too_long_or_in_vain_is_told(serving, tmp_path):
    slow = write_slow_policy(tmp_path / "slow.gguf")
    server = serving(models={"tiny": slow}, queue=2, deadline_s=0.1)
    clients = [client(server) for _ in range(3)]
    waiting = 'actquant_waiting_requests{model="tiny"}'
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(clients[0].infer, observation())
        wait_for(lambda: metric(server, waiting) == 1, "one that runs")
        second = pool.submit(clients[1].infer, observation())
        wait_for(lambda: metric(server, waiting) == 2, "one that waits")
        with pytest.raises(RuntimeError, match="2 requests wait for tiny already"):
            clients[2].infer(observation())
        assert first.result(60)["actions"].shape == (3, 2)
        with pytest.raises(RuntimeError, match=r"waited longer than 0\.1 s"):
            second.result(60)


def test_a_file_that_is_renamed_to_a_served_one_takes_its_place(tmp_path, serving):
    path = write_policy(tmp_path / "tiny.gguf")
    server = serving(models={"tiny": path})
    policy = client(server)
    ask = observation() | {"actquant": {"seed": 1}}
    before = policy.infer(ask)["actions"]
    keys = {"actquant.action.mean": ("array", [1.5, -0.5])}
    write_policy(tmp_path / "new.gguf", keys=keys).replace(path)
    wait_for(lambda: reloads(server, "taken") == 1, "the new file")
    assert np.allclose(policy.infer(ask)["actions"] - before, [1.0, 0.0], atol=1e-6)
    # One that is damaged, or of another robot, is not taken; the old one goes on.
    damaged = bytearray(path.read_bytes())
    damaged[-10] ^= 1
    (tmp_path / "new.gguf").write_bytes(damaged)
    (tmp_path / "new.gguf").replace(path)
    wait_for(lambda: reloads(server, "refused") == 1, "a file that is not taken")
    other = {"actquant.action.names": ("array", ["a", "b"])}
    write_policy(tmp_path / "new.gguf", keys=other).replace(path)
    wait_for(lambda: reloads(server, "refused") == 2, "a file that is not taken")
    assert np.allclose(policy.infer(ask)["actions"] - before, [1.0, 0.0], atol=1e-6)
    assert page(server, "/readyz")[0] == 200


def reloads(server: Served, outcome: str) -> float:
    return metric(server, f'actquant_reloads_total{{model="tiny",outcome="{outcome}"}}')


def test_a_file_that_is_written_to_in_place_answers_nothing_until_it_is_replaced(tmp_path, serving):
    path = write_policy(tmp_path / "tiny.gguf")
    whole = shutil.copy(path, tmp_path / "whole.gguf")
    os.utime(path, (1, 1))
    server = serving(models={"tiny": path})
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\x80\x7f")
    with pytest.raises(RuntimeError, match="was written to while it was open"):
        client(server).infer(observation())
    assert page(server, "/readyz") == (503, "broken: tiny\n")
    Path(whole).replace(path)
    wait_for(lambda: page(server, "/readyz")[0] == 200, "the whole file")
    assert client(server).infer(observation())["actions"].shape == (3, 2)


def certificate(folder: Path) -> tuple[Path, Path]:
    key, chain = folder / "key.pem", folder / "chain.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(chain), "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls(tmp_path, serving, kind, model):
    chain, key = certificate(tmp_path)
    server = serving(certificate=chain, certificate_key=key)
    context = ssl.create_default_context(cafile=str(chain))
    with connect(f"wss://127.0.0.1:{server.port}", ssl=context) as connection:
        connection.recv()
        connection.send(pack(observation()))
        assert isinstance(connection.recv(timeout=20), bytes)
    wrong = {"certificate": key, "certificate_key": chain}
    with (
        pytest.raises(RefusedError, match="the certificate cannot be read"),
        running(kind, {"tiny": model}, **wrong),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": {}}, "model"),
        ({"host": "0.0.0.0"}, "ACTQUANT_API_KEY"),
        ({"host": "::"}, "ACTQUANT_API_KEY"),
        ({"host": "robot.local"}, "ACTQUANT_API_KEY"),
        ({"queue": 0}, "--queue"),
        ({"deadline_s": float("nan")}, "--deadline"),
        ({"port": 70000}, "--port"),
        ({"certificate": Path("x")}, "belong together"),
    ],
)
def test_settings_that_make_no_sense(kind, model, changes, words):
    given = {"models": {"tiny": model}} | changes
    with pytest.raises(RefusedError, match=words), running(kind, **given):
        pass


def test_a_damaged_file_is_not_served(tmp_path, kind, model):
    damaged = bytearray(model.read_bytes())
    damaged[-10] ^= 1
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged)
    with pytest.raises(RefusedError, match="is damaged"), running(kind, {"a": path}):
        pass


def test_the_command_answers_what_was_begun_and_ends(kind, tmp_path):
    models = {"slow": write_slow_policy(tmp_path / "slow.gguf")}
    with (
        started(kind, models, api_key="secret", deadline_s=60) as (process, address),
        ThreadPoolExecutor(1) as pool,
    ):
        port = int(address.split(":")[2].partition("/")[0])
        server = Served(port, process.pid, kind)
        policy = WebsocketClientPolicy(address, api_key="secret")
        begun = pool.submit(policy.infer, observation())
        waiting = 'actquant_waiting_requests{model="slow"}'
        wait_for(lambda: metric(server, waiting) == 1, "a chunk that is made")
        process.terminate()
        assert begun.result(60)["actions"].shape == (3, 2)
        assert process.wait(20) == 0
        with pytest.raises(ConnectionClosed) as closed:
            policy.infer(observation())
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001


def test_a_port_that_is_taken_is_one_line(kind, model):
    with started(kind, {"tiny": model}) as (_, address):
        port = int(address.split(":")[2].partition("/")[0])
        words = command(kind, {"tiny": model}, port=port)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
        assert "Traceback" not in done.stderr
