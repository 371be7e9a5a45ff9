"""A policy behind `actquant serve` as a LeRobot policy: it answers as the file does."""

import importlib.util
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

if importlib.util.find_spec("lerobot_policy_actquant") is None:
    pytest.skip("lerobot_policy_actquant is not installed", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

import torch  # noqa: E402
from lerobot.configs import PreTrainedConfig  # noqa: E402
from lerobot.policies.factory import get_policy_class  # noqa: E402
from lerobot.policies.rtc.configuration_rtc import RTCConfig  # noqa: E402
from lerobot.utils.import_utils import register_third_party_plugins  # noqa: E402
from served import (  # noqa: E402
    KINDS,
    SCENE,
    WRIST,
    observation,
    running,
    two_step_programs,
)
from websockets.sync.server import serve  # noqa: E402

from policy_files import write_policy  # noqa: E402  # isort: skip

from actquant.serve.client import RemoteError  # noqa: E402
from actquant.serve.messages import pack  # noqa: E402

GREETING = pack(
    {
        "inputs": [SCENE, WRIST, "observation.state", "task"],
        "cameras": [SCENE, WRIST],
        "optional_cameras": 0,
        "image_size": [4, 4],
        "state_names": ["a", "b", "c"],
        "action_names": ["x", "y"],
        "observation_steps": 1,
        "chunk_length": 3,
        "steps_per_chunk": 2,
        "control_rate_hz": 10.0,
        "noise_shape": [3, 4],
        "supports_guidance": False,
    }
)

register_third_party_plugins()
ActquantConfig = PreTrainedConfig.get_choice_class("actquant")
ActquantPolicy = get_policy_class("actquant")
ActquantRemoteConfig = PreTrainedConfig.get_choice_class("actquant_remote")
ActquantRemotePolicy = get_policy_class("actquant_remote")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy") / "tiny.gguf")


@pytest.fixture(scope="module")
def policy(model):
    return ActquantPolicy(ActquantConfig(model=str(model)))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """Which server."""
    return request.param


@pytest.fixture(scope="module")
def server(kind, model):
    with running(kind, {"tiny": model}) as server:
        yield server


def batch_of(*seeds):
    """Observations as LeRobot gives them to a policy."""
    seen = [observation(seed) for seed in seeds]
    batch = {
        key: torch.stack([torch.from_numpy(each[key]) for each in seen])
        for key in (SCENE, WRIST, "observation.state")
    }
    for camera in (SCENE, WRIST):
        batch[camera] = batch[camera].permute(0, 3, 1, 2) / 255
    return batch | {"task": [each["task"] for each in seen]}


@pytest.fixture
def batch():
    return batch_of(0, 1)


@pytest.fixture
def noise(policy):
    shape = (2, *policy._description["noise_shape"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def remote(server, **changes):
    address = {} if server is None else {"url": f"ws://127.0.0.1:{server.port}"}
    return ActquantRemotePolicy(ActquantRemoteConfig(**(address | changes)))


def test_a_served_policy_answers_as_its_file_does(policy, server, batch, noise):
    served = remote(server)
    assert served.config.output_features == policy.config.output_features
    assert list(served.config.image_features) == [SCENE, WRIST]
    assert served.config.n_action_steps == policy.config.n_action_steps
    assert served.supports_rtc()
    want = policy.predict_action_chunk(batch, noise=noise)
    assert torch.equal(served.predict_action_chunk(batch, noise=noise), want)
    guidance = {"inference_delay": 1, "prev_chunk_left_over": want[:, 1:], "execution_horizon": 2}
    answers = []
    for each in (policy, served):
        each.config.rtc_config = RTCConfig(max_guidance_weight=5.0)
        answers.append(each.predict_action_chunk(batch, noise=noise, **guidance))
        each.config.rtc_config = None
    assert torch.equal(*answers) and not torch.equal(answers[0], want)


def test_a_served_policy_of_several_observation_steps(tmp_path, kind):
    path = write_policy(
        tmp_path / "two.gguf",
        keys={"actquant.observation.steps": ("uint32", 2)},
        programs=two_step_programs(),
    )
    with running(kind, {"two": path}) as server:
        policies = [ActquantPolicy(ActquantConfig(model=str(path))), remote(server)]
        for seed in range(4):
            actions = []
            for each in policies:
                torch.manual_seed(seed)
                actions.append(each.select_action(batch_of(seed)))
            assert torch.equal(*actions)


def test_a_server_that_comes_back_is_asked_again(policy, kind, model, batch, noise):
    want = policy.predict_action_chunk(batch, noise=noise)
    with running(kind, {"tiny": model}) as server:
        port = server.port
        served = remote(server, timeout_s=30.0)
        assert torch.equal(served.predict_action_chunk(batch, noise=noise), want)
    with running(kind, {"tiny": model}, port=port):
        assert torch.equal(served.predict_action_chunk(batch, noise=noise), want)
    with pytest.raises(RemoteError, match=f"no policy at ws://127.0.0.1:{port}"):
        served.predict_action_chunk(batch, noise=noise)
    with running(kind, {"other": model}, port=port):
        for _ in range(2):
            with pytest.raises(RemoteError, match="serves another policy now"):
                served.predict_action_chunk(batch, noise=noise)


def test_servers_that_cannot_be_used(kind, model, server, batch, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--policy.url=ws://HOST:PORT"):
        ActquantRemotePolicy(ActquantRemoteConfig())
    with pytest.raises(RemoteError, match="'tcp://x' is no address such as ws://HOST:PORT"):
        ActquantRemotePolicy(ActquantRemoteConfig(url="tcp://x"))
    with pytest.raises(RemoteError, match="no policy at .*/other: no such model; there are: tiny"):
        remote(server, url=f"ws://127.0.0.1:{server.port}/other")
    with running(kind, {"tiny": model}, api_key="secret") as closed:
        with pytest.raises(RemoteError, match="Authorization: Api-Key KEY"):
            remote(closed)
        monkeypatch.setenv("ACTQUANT_API_KEY", "secret")
        saved = remote(closed)
        saved.save_pretrained(tmp_path)
        assert "secret" not in (tmp_path / "config.json").read_text()
        loaded = ActquantRemotePolicy.from_pretrained(tmp_path)
        assert loaded.config.url == saved.config.url
    with pytest.raises(ValueError, match="holds a policy of type 'actquant_remote'"):
        ActquantPolicy.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["type"] == "actquant_remote"
    wrong = batch | {"observation.state": batch["observation.state"] * float("nan")}
    with pytest.raises(RemoteError, match=r"observation\.state\[0\] is nan"):
        remote(server).predict_action_chunk(wrong)


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ([pack({"server": "another"})], "is no `actquant serve` .* does not say inputs, cameras,"),
        ([b"\xc1"], "gave no msgpack message"),
        (["closed today"], "closed today"),
        ([], "hung up without a word"),
        ([GREETING, pack({"chunk": 1})], "gave an answer without actions"),
    ],
)
def test_a_server_that_is_something_else(says, told, batch):
    def say(connection):
        for i, answer in enumerate(says):
            if i > 0:
                connection.recv()
            connection.send(answer)

    with serve(say, "127.0.0.1", 0) as other, ThreadPoolExecutor(1) as thread:
        thread.submit(other.serve_forever)
        try:
            with pytest.raises(RemoteError, match=told):
                remote(None, url=f"ws://127.0.0.1:{other.socket.getsockname()[1]}").select_action(
                    batch
                )
        finally:
            other.shutdown()


def test_a_server_that_is_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(RemoteError):
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        ActquantRemotePolicy(ActquantRemoteConfig(url=url, timeout_s=0.5))
