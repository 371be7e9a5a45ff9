"""Several processes compress one policy together."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_dataset import RATE_HZ, make_dataset
from safetensors.numpy import load_file
from tiny_families import build_tiny

from actquant.calibration.accumulators import EmbeddingJacobian, MeanActivations
from actquant.compression.pipeline import compress
from actquant.policies import load_policy
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.settings import TuningSettings

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
"""What `accelerate launch --num_processes 2` runs where there are GPUs; on CPUs it starts one."""
FRAMES = ["--frames", "9", "--draws", "1", "--held-out", "4"]
SETTINGS = CompressionSettings(
    n_frames=9, draws=1, n_held_out=4, tuning=TuningSettings(minutes=0.1)
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *LAUNCH, "-m", "actquant.cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def build(family: str, folder: Path, *, episodes: int, length: int) -> tuple[Path, Path]:
    """A tiny checkpoint and a dataset for it."""
    checkpoint, dataset = build_tiny(family, folder / "policy"), folder / "data"
    face = load_policy(checkpoint, control_rate_hz=RATE_HZ).interface
    make_dataset(dataset, face, episodes, length)
    return checkpoint, dataset


def statistics_in(work: Path) -> dict[str, dict[str, np.ndarray]]:
    found = work.glob("*/*.safetensors")
    skipped = ("encoded", "program", "tun", "held", "untuned")
    return {
        f"{path.parent.name}/{path.stem}": load_file(path)
        for path in found
        if not path.parent.name.startswith(skipped)
    }


@pytest.mark.parametrize(("family", "recipe"), [("smolvla", "actquant"), ("act", "paper")])
def test_two_processes_find_what_one_finds(family: str, recipe: str, tmp_path: Path):
    checkpoint, dataset = build(family, tmp_path, episodes=4, length=6)
    options = [*FRAMES, "--recipe", recipe, "--bpw", "8.9", "--tune-minutes", "0.1", "--json"]
    options += ["--work", tmp_path / "two", "--out", tmp_path / "two.gguf"]
    done = run("compress", checkpoint, "--dataset", dataset, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    b = json.loads(done.stdout)  # the first process alone speaks
    one_alone = compress(
        checkpoint,
        tmp_path / "one.gguf",
        recipe=recipe,
        dataset=dataset,
        bpw=8.9,
        work=tmp_path / "one",
        settings=SETTINGS,
    )
    a = one_alone.model_dump()
    one, two = (statistics_in(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one) > 10
    for name, arrays in one.items():
        for key, array in arrays.items():
            scale = np.abs(array).max(initial=1e-30)
            assert np.abs(array - two[name][key]).max(initial=0) < 1e-4 * scale, (name, key)
    assert (a["processes"], b["processes"]) == (1, 2)
    same = sum(x["type"] == y["type"] for x, y in zip(a["tensors"], b["tensors"], strict=True))
    assert same > 0.9 * len(a["tensors"])
    assert b["held_out"]["to_reference"] == pytest.approx(a["held_out"]["to_reference"], rel=0.3)
    assert not list((tmp_path / "two").glob("statistics-partial/*"))


def test_more_processes_than_batches_and_other_commands_are_refused(tmp_path: Path):
    checkpoint, dataset = build("smolvla", tmp_path, episodes=2, length=2)
    out = tmp_path / "a.gguf"
    options = ["--frames", "1", "--held-out", "1", "--bpw", "8.9", "--work", tmp_path / "work"]
    done = run("compress", checkpoint, "--dataset", dataset, *options, "--out", out)
    assert done.returncode != 0 and not out.exists()
    assert "1 batches of frames are too few for 2 processes" in done.stderr
    done = run("cache")
    assert done.returncode != 0
    assert "Several processes share the work of `compress` alone" in done.stderr


def test_parts_of_a_table_and_of_means_are_put_together():
    table, other = (EmbeddingJacobian("t", 9, 2) for _ in range(2))
    moments = np.eye(2)
    state = {"rows": np.array([1, 4]), "squares": np.ones((2, 2), np.float32), "moments": moments}
    table.restore(state)
    other.restore({**state, "rows": np.array([4, 7])})
    table.merge(other.state())
    found = table.state()
    assert found["rows"].tolist() == [1, 4, 7]
    assert found["squares"].tolist() == [[1, 1], [2, 2], [1, 1]]
    assert found["moments"].tolist() == (2 * moments).tolist()

    means, later = (MeanActivations("m", 1, 1) for _ in range(2))
    means.restore({"inputs": np.zeros((2, 1)), "outputs": np.zeros((2, 1))})
    later.restore({"inputs": np.ones((1, 1)), "outputs": np.ones((1, 1))})
    means.merge(later.state())
    assert means.state()["inputs"].tolist() == [[0], [0], [1]]
