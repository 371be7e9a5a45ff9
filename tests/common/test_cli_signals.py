"""A command that is told to stop leaves nothing half-written."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_xvla import build_tiny_xvla

COMMAND = "from actquant.cli import app; app()"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_conversion_that_is_stopped_leaves_no_file(tmp_path: Path, number: int, status: int):
    build_tiny_xvla(tmp_path / "policy")
    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    words = ["compress", str(tmp_path / "policy"), "--out", str(out), "--recipe", "f32"]
    words += ["--control-rate-hz", "10", "--verify", "full"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not list(out.parent.glob(".*.tmp")) and process.poll() is None:
        assert time.monotonic() < deadline, "no file was begun"
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == status, told
    assert "Stopped." in told
    assert not list(out.parent.iterdir())
