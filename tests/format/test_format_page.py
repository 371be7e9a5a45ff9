"""docs/format.md against the code: what is added without a word there fails here."""

import json
import re
from pathlib import Path

import format_page
import pytest
from actquant_runtime import ModelFileError, Runtime
from actquant_runtime._core import Tokenizer

import actquant.common.errors
from actquant.capture.lowering.partition import DEVICE_OPERATORS, HOST_OPERATORS
from actquant.fidelity.reference_runner import TASK_STEPS
from actquant.format.checksums import checksum_keys
from actquant.format.image_steps import STEPS
from actquant.format.model_file import read_model
from actquant.format.schema import (
    COEFFICIENTS,
    FORMAT_VERSION,
    INTERFACE_KEYS,
    MODEL_KEYS,
    OPTIONAL_FIELDS,
    SAMPLER_KEYS,
)

SOURCES = Path(__file__).parents[2] / "runtime/src"
OTHER_KEYS = {
    "general.architecture": "str",
    "actquant.stages": "str[]",
    "actquant.graph.<stage>": "str",
    "actquant.shapes": "str",
    **{key: kind for key, kind, _ in checksum_keys([])},
}


def test_keys_and_their_types():
    written = {**INTERFACE_KEYS, **SAMPLER_KEYS, **MODEL_KEYS}
    wanted = {key: "str" if kind == "json" else kind for key, kind in written.values()}
    documented = {key: kind for key, (kind, _) in format_page.keys().items()}
    assert documented == wanted | OTHER_KEYS


def test_keys_that_may_be_absent():
    optional = {INTERFACE_KEYS[field][0] for field in OPTIONAL_FIELDS}
    optional |= {key for key, _ in SAMPLER_KEYS.values()}
    assert {key for key, (_, absent) in format_page.keys().items() if absent} == optional


def required_keys() -> list[str]:
    """Those that every file has: lists may be empty, and are then not written."""
    documented = format_page.keys().items()
    return [
        key.replace("<stage>", "prefix")
        for key, (kind, may_be_absent) in documented
        if not may_be_absent and not kind.endswith("[]") and key != "general.architecture"
    ]


@pytest.mark.parametrize("key", required_keys())
def test_a_file_without_a_required_key_is_refused_by_both_readers(key, tmp_path, policy_file):
    path = policy_file(tmp_path / "gap.gguf", key)
    with pytest.raises(ModelFileError, match=re.escape(key)):
        Runtime(path)
    with pytest.raises(actquant.common.errors.ModelFileError, match=re.escape(key)):
        read_model(path)


@pytest.fixture
def policy_file(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "runtime"))
    from policy_files import write_policy

    return lambda path, missing: write_policy(path, keys={missing: None})


def test_version():
    assert f"Format version {FORMAT_VERSION}." in format_page.PAGE
    (row,) = (r for r in format_page.tables("## Keys")[0] if "format_version" in r[0])
    assert row[2] == str(FORMAT_VERSION)


def test_device_operators_and_their_attributes():
    documented = format_page.operators("### Device operators")
    assert set(documented) == DEVICE_OPERATORS
    source = "".join(path.read_text() for path in (SOURCES / "operators").glob("*.cpp"))
    entries = re.findall(r'table\["(\w+)"\] = (.*?);', source, re.DOTALL)
    in_cpp = {name: re.findall(r'"(\w+)"', entry) for name, entry in entries}
    assert {k: sorted(v) for k, v in documented.items()} == {
        k: sorted(v) for k, v in in_cpp.items()
    }


def test_host_operators():
    documented = format_page.operators("### Host operators")
    assert set(documented) == HOST_OPERATORS
    source = (
        (SOURCES / "operators" / "host_operators.cpp").read_text().split("host_operators() {")[1]
    )
    assert set(re.findall(r'^ {8}\{"(\w+)", ', source, re.MULTILINE)) == HOST_OPERATORS
    device = format_page.operators("### Device operators")
    assert all(device[name] == documented[name] for name in set(device) & set(documented))


def test_image_and_task_steps():
    assert set(re.findall(r"^- `(\w+) height=", format_page.PAGE, re.MULTILINE)) == {
        name for name in STEPS if name != "crop_resize"
    }
    assert "- `crop_resize fraction=S height=H width=W`" in format_page.PAGE
    (line,) = (x for x in format_page.PAGE.splitlines() if x.startswith("1. `task_steps`"))
    assert set(TASK_STEPS) <= set(format_page.names(line))


def test_the_samplers_columns():
    (columns,) = re.findall(r"\(((?:\w, )+\w)\) row k of the coefficients", format_page.PAGE)
    assert len(columns.split(", ")) == COEFFICIENTS


@pytest.mark.parametrize("part", ["model", "normalizer", "pre_tokenizer", "post_processor"])
def test_components_of_tokenizers(part):
    """The runtime refuses what it does not know by listing what it knows."""
    text = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    text[part] = {**text.get(part, {}), "type": "Unheard"}
    with pytest.raises(ModelFileError) as caught:
        Tokenizer(json.dumps(text))
    (known,) = re.findall(r"supported (?:are|is) (.*)", str(caught.value))
    rows = {
        format_page.names(cell)[0]: text for cell, text in format_page.tables("## The prompt")[0]
    }
    documented = format_page.names(rows[part])
    if part == "model":
        documented = documented[:1]
    assert documented == re.split(r", | and ", known)
