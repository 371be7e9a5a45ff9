"""Episodes on two nodes of Ray on this machine are those of a serial run, whatever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_policies import build_tiny_smolvla
from typer.testing import CliRunner

from actquant.capture.policy import convert_f32
from actquant.cli import app
from actquant.common.errors import EvaluationError
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.workers import ATTEMPTS
from actquant.policies import load_policy

WORDS = {"env": "ur3e", "tasks": ["push_zone"], "starts": "0:5", "all_videos": True}
START_TRIES = 3
"""Ray gives its processes 30 s to start, which a busy machine may not be able to."""


@dataclass(frozen=True)
class Nodes:
    """A cluster. raylets: the process of each node that the others of it are children of."""

    address: str
    raylets: list[int]

    def busy(self, node: int) -> int | None:
        """Returns the process that runs an episode on a node."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == self.raylets[node] and title.startswith(b"ray::_run_remotely"):
                return int(folder.name)
        return None

    def kill(self, node: int) -> bool:
        """Kills (SIGKILL) what runs an episode on a node, if anything does."""
        process = self.busy(node)
        if process is not None:
            os.kill(process, signal.SIGKILL)
        return process is not None


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    # Sockets have short names; nothing of other clusters here is seen, nor seen by them.
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    # A dependency of a dependency, of which half of the time of `import ray` goes into a grammar.
    (Path(place) / "rfc3987_syntax.py").write_text("raise ImportError\n")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_TMPDIR", place)
    patch.setenv("TMPDIR", place)
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("PYTHONPATH", place, prepend=os.pathsep)
    command = [sys.executable, Path(__file__).with_name("ray_nodes.py")]
    log = (tmp_path_factory.mktemp("ray") / "log").open("w+")
    process = None
    try:
        for _ in range(START_TRIES):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
            assert process.stdout is not None
            if said := process.stdout.readline():
                yield Nodes(**json.loads(said))
                process.communicate(timeout=60)
                return
            _end(process)
        log.seek(0)
        pytest.fail(log.read())
    finally:
        if process is not None:
            _end(process)
        shutil.rmtree(place)
        patch.undo()


def _end(process: subprocess.Popen) -> None:
    """Ends a process and all of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow with the UR3e simulator's numbers."""
    folder = tmp_path_factory.mktemp("policy")
    sizes = {"state_dim": 13, "max_state_dim": 16, "max_length": 48, "hidden": 32}
    checkpoint = build_tiny_smolvla(folder / "tiny", **sizes)
    return convert_f32(load_policy(checkpoint, control_rate_hz=10), folder / "policy.gguf")


def episodes(out: Path) -> list[dict[str, Any]]:
    """What a result says of its episodes, with the actions of each."""
    found = json.loads(out.read_text())["episodes"]
    for episode in found:
        recording = out.parent / episode["recording"]
        about = json.loads(recording.with_suffix(".json").read_text())
        assert recording.stat().st_size > 1000 and about.pop("latencies_ms")
        episode["recording"] = about
    return found


def wait_for(is_time: Callable[[], Any], process: subprocess.Popen) -> None:
    while not is_time():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_whatever_dies_episodes_are_those_of_a_serial_run(
    policy: Path, nodes: Nodes, tmp_path: Path
) -> None:
    serial, out = tmp_path / "serial" / "r.json", tmp_path / "ray" / "r.json"
    for path in (serial, out):
        path.parent.mkdir()
    evaluate(policy, out=serial, jobs=1, videos=serial.parent, **WORDS)

    def begin() -> subprocess.Popen:
        words = ["eval", policy, "--tasks", "push_zone", "--starts", "0:5", "--ray", nodes.address,
                 "--videos", out.parent, "--all-videos", "--out", out]  # fmt: skip
        command = [sys.executable, "-m", "actquant.cli", *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)

    def finished() -> int:
        return sum(p.read_bytes().count(b"\n") - 1 for p in out.parent.glob("*.partial.jsonl"))

    process = begin()
    wait_for(lambda: finished() >= 1 and nodes.kill(0), process)
    wait_for(lambda: finished() >= 2, process)
    process.terminate()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143 and said.startswith("Stopped."), said
    assert not out.exists()

    # A copy goes on without Ray.
    alone = tmp_path / "alone"
    shutil.copytree(out.parent, alone)
    seen: list[int] = []
    evaluate(
        policy,
        out=alone / "r.json",
        jobs=1,
        videos=alone,
        on_episode=lambda episode, *_: seen.append(episode.start),
        **WORDS,
    )
    kept = finished()
    assert 2 <= kept < 5 and len(seen) == 5 - kept
    assert episodes(alone / "r.json") == episodes(serial)

    process = begin()
    wait_for(lambda: nodes.kill(1), process)
    os.kill(nodes.raylets[1], signal.SIGKILL)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert episodes(out) == episodes(serial)
    assert not list(out.parent.glob("*.partial.jsonl"))
    assert [p.name for p in Path(os.environ["TMPDIR"]).glob("actquant-ray-*/*")] == ["lock"]
    here, there = (json.loads(path.read_text())["provenance"] for path in (serial, out))
    assert "2 cores of 2 node(s) by Ray" in there["machine"]
    differing = {key for key in here if here[key] != there[key]}
    assert differing <= {"command", "date", "jobs", "machine", "threads_per_job"}


def test_a_node_with_other_versions_is_named(
    policy: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actquant.evaluation.result.__version__", "9.9")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EvaluationError, match=r"the node .* has actquant .* \(wanted 9\.9\); inst"):
        evaluate(policy, env="ur3e", tasks=["push_zone"], starts="0:1", ray=nodes.address)
    import ray

    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) == handler


def test_what_kills_its_process_each_time_is_not_counted(policy: Path, nodes: Nodes) -> None:
    kills, over = 0, threading.Event()

    def kill() -> None:
        nonlocal kills
        while not over.wait(0.01):
            kills += nodes.kill(0) or nodes.kill(1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(EvaluationError, match="of 1 episodes; the first: the process that ran"):
            evaluate(policy, env="ur3e", tasks=["push_zone"], starts="0:1", ray=nodes.address)
    finally:
        over.set()
        killer.join()
    assert kills >= ATTEMPTS


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--ray", "127.0.0.1:1"], 1, "no Ray cluster answers at 127.0.0.1:1: Connection refused"),
        (["--ray", "ray://127.0.0.1:1"], 1, "answers at ray://127.0.0.1:1: Connection refused"),
        (["--ray", "head"], 2, "--ray head: wanted auto, HOST:PORT"),
        (["--ray", "auto", "--latency", "measured"], 2, "give --latency MS"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_done(
    words: list[str], code: int, told: str, tmp_path: Path
) -> None:
    model = tmp_path / "none.gguf"
    model.touch()
    said = CliRunner().invoke(
        app, ["eval", str(model), *words, "--out", str(tmp_path / "r")], env={"COLUMNS": "300"}
    )
    assert said.exit_code == code and told in said.output
    assert len(said.output.splitlines()) == 1


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "grpc"):
        monkeypatch.setitem(sys.modules, name, None)
    model = tmp_path / "none.gguf"
    model.touch()
    command = ["eval", str(model), "--ray", "auto", "--out", str(tmp_path / "r")]
    said = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert said.exit_code == 1 and "pip install 'actquant[ray]'" in said.output


def test_a_checkpoint_folder_is_not_sent(checkpoint: Path) -> None:
    with pytest.raises(EvaluationError, match="--ray takes a GGUF"):
        evaluate(checkpoint, env="ur3e", ray="auto")
