"""Stored graphs are the same graphs."""

import json
from pathlib import Path

import pytest
from tiny_families import build_tiny, loading

from actquant.capture.policy import capture_policy, convert_f32, free_vectors, use_stages
from actquant.policies import load_policy
from actquant.program.ir import Graph, node
from actquant.program.size import Size
from actquant.program.stored import dump_graphs, load_graphs


@pytest.mark.parametrize("family", ["smolvla", "diffusion"])
def test_a_policy_of_stored_graphs_gives_the_same_file(family, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    build_tiny(family, tmp_path / "tiny")
    with loading(family):
        loaded = load_policy(tmp_path / "tiny", control_rate_hz=10)
    captured = capture_policy(loaded)
    before = convert_f32(loaded, tmp_path / "before.gguf").read_bytes()
    parameters = dict(loaded.policy.named_parameters())
    arrays, rest = dump_graphs(captured.stages, parameters)
    stored = sum(array.nbytes for array in arrays.values())
    assert stored < 0.2 * sum(p.nbytes for p in parameters.values())
    use_stages(loaded, load_graphs(arrays, json.loads(json.dumps(rest)), parameters))
    again = capture_policy(loaded)
    assert again is not captured
    assert again.dropped == captured.dropped and again.report == captured.report
    assert free_vectors(again) == free_vectors(captured)
    assert convert_f32(loaded, tmp_path / "again.gguf").read_bytes() == before


def test_sizes_and_infinities_come_back():
    x = node("affine", [], (Size(3, 2, 10), 4), a=float("-inf"), b=0.5, dims=(1, Size(0, 1, 10)))
    graph = Graph("stage", [], {"y": x})
    arrays, rest = dump_graphs({"stage": graph}, {})
    again = load_graphs(arrays, json.loads(json.dumps(rest)), {})["stage"].outputs["y"]
    assert str(again.shape) == str(x.shape) and again.shape == (23, 4)
    assert str(again.attrs) == str(x.attrs) and again.attrs == x.attrs
