"""Contenders answer in turns; one that cannot start is left out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_policies import build_tiny_smolvla

from actquant.compression.pipeline import compress

SCRIPT = Path(__file__).parents[2] / "benchmarks/side_by_side.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("speed")
    checkpoint = build_tiny_smolvla(folder / "tiny", hidden=128)
    compress(checkpoint, folder / "tiny.gguf", recipe="q8_0", control_rate_hz=10)
    return checkpoint, folder / "tiny.gguf"


def test_contenders_answer_in_turns(made: tuple[Path, Path], tmp_path: Path):
    checkpoint, model = made
    command = [sys.executable, str(SCRIPT), str(checkpoint), str(model), "--threads", "1"]
    command += ["--contenders", "actquant,ggml,pytorch-f32,pytorch-bf16", "--turns", "2"]
    command += ["--json", str(tmp_path / "speed.json"), "--plot", str(tmp_path / "speed.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["actquant", "ggml", "pytorch-f32", "pytorch-bf16"]
    assert all(row["n"] == 2 and row["min_s"] > 0 for row in rows)
    assert (
        rows[0]["actquant_is_times"] == 1 and rows[2]["peak_rss_bytes"] > rows[0]["peak_rss_bytes"]
    )
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_contender_that_fails_is_left_out(made: tuple[Path, Path], tmp_path: Path):
    _, model = made
    command = [sys.executable, str(SCRIPT), str(tmp_path / "nowhere"), str(model), "--threads", "1"]
    command += ["--contenders", "actquant,pytorch-f32", "--turns", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "left out: pytorch-f32" in done.stderr
    assert "actquant" in done.stdout and "pytorch" not in done.stdout
