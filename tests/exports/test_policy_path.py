"""LeRobot's `--policy.path` takes a GGUF, a folder that holds one, and its name on the hub."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("lerobot_policy_actquant") is None:
    pytest.skip("lerobot_policy_actquant is not installed", allow_module_level=True)

import torch  # noqa: E402
from hub_server import HubServer, serving  # noqa: E402
from lerobot.configs import PreTrainedConfig  # noqa: E402
from lerobot.policies.factory import get_policy_class, make_pre_post_processors  # noqa: E402
from lerobot.utils.import_utils import register_third_party_plugins  # noqa: E402
from tiny_policies import CAMERAS, build_tiny_smolvla  # noqa: E402

from actquant.capture.policy import convert_f32  # noqa: E402
from actquant.policies import load_policy  # noqa: E402

# Nothing of the package is imported before LeRobot's discovery.
register_third_party_plugins()
lerobot_api: Any = importlib.import_module("lerobot_policy_actquant.lerobot_api")

STATE, CHUNK = 13, 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return build_tiny_smolvla(
        tmp_path_factory.mktemp("policy") / "tiny", state_dim=STATE, max_state_dim=16
    )


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    """A tiny policy with the layout of the ur3e environment."""
    return convert_f32(
        load_policy(checkpoint, control_rate_hz=10), checkpoint.with_name("tiny.gguf")
    )


def load(path: Path | str, *overrides: str) -> Any:
    """What LeRobot's commands do of `--policy.path`."""
    config = PreTrainedConfig.from_pretrained(path, cli_overrides=list(overrides))
    config.pretrained_path = Path(path)
    return config


def test_lerobot_eval_takes_a_gguf(model, tmp_path):
    """The command itself, in a process of its own; its camera has another name."""
    out = tmp_path / "out"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("lerobot-eval"),
            f"--policy.path={model}",
            "--policy.n_action_steps=2",
            *("--env.type=ur3e", "--env.task=pick_cube"),
            *("--env.episode_length=4", "--env.image_size=48"),
            *("--eval.n_episodes=1", "--eval.batch_size=1", f"--output_dir={out}"),
            f'--rename_map={{"{CAMERAS[0]}": "{CAMERAS[1]}", "{CAMERAS[1]}": "{CAMERAS[0]}"}}',
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((out / "eval_info.json").read_text())["overall"]["n_episodes"] == 1
    assert f"'model': '{model}'" in done.stderr and "'n_action_steps': 2" in done.stderr
    assert not list(tmp_path.glob("actquant-lerobot-*")), "its folders stay"


@pytest.mark.parametrize("where", ["file", "folder", "~"])
def test_the_policy_is_the_files(where, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(model.parent))
    shutil.copy(model, tmp_path)
    path = {"file": model, "folder": tmp_path, "~": "~/tiny.gguf"}[where]
    config = load(path, "--n_action_steps=3")
    policy: Any = get_policy_class(config.type).from_pretrained(path, config=config)
    assert policy.config.n_action_steps == 3
    direct = get_policy_class("actquant").from_pretrained(model)
    batch: dict[str, Any] = {key: torch.rand(1, 3, 48, 48) for key in CAMERAS}
    batch |= {"observation.state": torch.randn(1, STATE), "task": ["pick up the cube"]}
    noise = torch.randn(1, CHUNK, 8)
    want = direct.predict_action_chunk(batch, noise=noise)
    # As the commands make them: after the policy, from where its configuration says.
    before, after = make_pre_post_processors(
        config,
        pretrained_path=config.pretrained_path,
        preprocessor_overrides={
            "device_processor": {"device": "cpu"},
            "rename_observations_processor": {"rename_map": {"observation.images.a": CAMERAS[0]}},
        },
    )
    batch["observation.images.a"] = batch.pop(CAMERAS[0])
    assert torch.equal(after(policy.predict_action_chunk(before(batch), noise=noise)), want)


def test_what_lerobot_loads_itself_is_left_to_it(checkpoint, model, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(checkpoint, folder)
    shutil.copy(model, folder)
    assert load(folder).type == "smolvla"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"^config.json not found in .*empty$"):
        load(tmp_path / "empty")


def test_paths_that_name_no_gguf(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model file /.*/absent.gguf"):
        load("absent.gguf")
    for name in ("b.gguf", "a.gguf"):
        shutil.copy(model, tmp_path / name)
    with pytest.raises(ValueError, match=r"holds 2 GGUFs: a.gguf, b.gguf; name one: .*/a.gguf"):
        load(tmp_path)
    (tmp_path / "text.gguf").write_text("not a model")
    config = load(tmp_path / "text.gguf")
    with pytest.raises(Exception, match=f"{tmp_path}/text.gguf"):
        get_policy_class("actquant").from_pretrained(tmp_path / "text.gguf", config=config)


NAMED = """
import sys
from pathlib import Path
from lerobot.configs import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.policies.factory import get_policy_class
register_third_party_plugins()
for name in sys.argv[1:]:
    try:
        name, _, revision = name.partition(" ")
        config = PreTrainedConfig.from_pretrained(name, revision=revision or None)
        get_policy_class("actquant").from_pretrained(name, config=config, revision=revision or None)
        print(Path(config.model).relative_to(Path(config.model).parents[1]))
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_names_on_the_hub(model, tmp_path):
    content, commits = model.read_bytes(), {"main": "1" * 40, "v2": "2" * 40}
    with serving(HubServer("some/policy", commits, {"policy.gguf": content})) as hub:
        several = {"a.gguf": content, "b.gguf": content}
        hub.repositories["some/several"] = HubServer(
            "some/several", {"main": "3" * 40}, several
        ).repositories["some/several"]
        done = subprocess.run(
            [
                *(sys.executable, "-c", NAMED),
                *("some/policy", "some/policy v2", "some/policy@v2", "some/several:b.gguf"),
                *("some/several", "some/absent"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={
                **os.environ,
                **{"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
                **{"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"},
            },
        )
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        f"{'1' * 40}/policy.gguf",
        f"{'2' * 40}/policy.gguf",
        f"{'2' * 40}/policy.gguf",
        f"{'3' * 40}/b.gguf",
    ], done.stdout + done.stderr[-3000:]
    assert lines[4].startswith("FileNotFoundError some/several is no policy of LeRobot's")
    assert "has 2 GGUFs: a.gguf, b.gguf" in lines[4]
    assert "there is no repository some/absent on the hub" in lines[5]


def test_another_version_of_lerobot_is_left_alone(caplog):
    before = PreTrainedConfig.__dict__["from_pretrained"]
    with caplog.at_level(logging.WARNING):
        assert not lerobot_api.accept_ggufs(None, None, None, installed="0.7.0")
    assert PreTrainedConfig.__dict__["from_pretrained"] is before
    assert "not tried with LeRobot 0.7.0 (but with <0.7,>=0.6.1)" in caplog.text
    assert "--policy.type=actquant --policy.model=FILE.gguf" in caplog.text


def test_only_one_module_imports_lerobot():
    folder = Path(lerobot_api.__file__).parent
    importing = [
        file.name
        for file in folder.glob("*.py")
        if any(
            line.lstrip().startswith(("from lerobot.", "import lerobot", "from lerobot import"))
            for line in file.read_text().splitlines()
        )
    ]
    assert importing == ["lerobot_api.py"]
