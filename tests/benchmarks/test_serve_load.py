"""Clients of several processes get chunks from one server, and all are counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["python", "native"])
def test_clients_are_served_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests/runtime"))
    monkeypatch.syspath_prepend(str(ROOT / "tests/serve"))
    from policy_files import write_policy
    from served import native_server

    resized = ["resize height=6 width=12 filter=bilinear antialias=1 round=0"]
    keys = {"actquant.image.steps": ("array", resized)}
    model = write_policy(tmp_path / "tiny.gguf", keys=keys)
    command = [sys.executable, str(ROOT / "benchmarks/serve_load.py"), str(model)]
    command += ["--clients", "1,3", "--seconds", "1", "--json", str(tmp_path / "load.json")]
    command += ["--server", native_server()] if kind == "native" else []
    subprocess.run(command, check=True, capture_output=True)
    one, three = json.loads((tmp_path / "load.json").read_text())
    assert (one["clients"], three["clients"]) == (1, 3)
    assert one["added_ms"] > 0 and "added_ms" not in three
    assert three["chunks"] >= 3 and three["p99_ms"] >= three["p50_ms"] > 0
