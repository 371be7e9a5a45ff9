import math
import re
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

from actquant.capture import capture_stage
from actquant.capture.policy import convert_f32, quantizable
from actquant.common.errors import ModelFileError
from actquant.format.checksums import HEADER_KEY, seal_header
from actquant.format.model_file import (
    EncodedTensor,
    model_bytes,
    read_model,
    with_golden,
    with_metadata,
    write_model,
)
from actquant.program import emit_program, interpret
from actquant.program.size import at_length


def encode(weight: torch.Tensor, kind: str) -> EncodedTensor:
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rows = np.asarray(weight.numpy())
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % block)))
    data = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[kind])
    return EncodedTensor(kind, data, tuple(weight.shape))


@pytest.fixture(scope="module")
def file(loaded, tmp_path_factory):
    return convert_f32(loaded, tmp_path_factory.mktemp("file") / "model.gguf")


def test_what_is_written_is_read(file, captured):
    model = read_model(file)
    written = captured.metadata
    provenance = {k: v for k, v in model.metadata.provenance.items() if k != "tensor_names"}
    assert provenance == written.provenance
    assert model.metadata.name == written.name and model.metadata.family == "smolvla"
    assert model.metadata.parameter_count == written.parameter_count
    for name, value in vars(written.interface).items():
        read = getattr(model.metadata.interface, name)
        if isinstance(value, float) or (
            isinstance(value, tuple) and value and isinstance(value[0], float)
        ):
            assert np.array_equal(np.float32(read), np.float32(value)), name
        else:
            assert read == value, name
    for name, short in captured.tensor_names.items():
        assert model.metadata.provenance["tensor_names"][short] == name
        assert len(short) < 64
        assert torch.equal(torch.from_numpy(model.load(short)), captured.params[name])
    assert list(model.programs) == ["vision", "prefix", "denoise"]


def test_stages_of_a_file_compute_what_was_captured(file, captured):
    model = read_model(file)
    for stage, graph in captured.stages.items():
        parsed, graph = model.graph(stage, 7), at_length(graph, 7)  # noqa: PLW2901
        made = emit_program(graph, lambda n: captured.tensor_names.get(n.name) or n.name or "const")
        assert re.sub(r"@const\.\d+", "@const", emit_program(parsed, lambda n: n.name)) == made
        inputs = {
            n.name: torch.ones(n.shape, dtype={"f32": None, "i64": int, "b8": bool}[n.dtype])
            for n in graph.inputs
        }
        expected = interpret(graph, inputs)
        for name, value in interpret(parsed, inputs).items():
            assert torch.equal(value, expected[name])
    with pytest.raises(ModelFileError, match="no stage 'sight'; it has vision, prefix, denoise"):
        model.graph("sight")


def test_bits_count_the_whole_file_or_the_quantized_tensors(loaded, captured, tmp_path):
    names = [t.name for t in quantizable(loaded)]
    path = write_model(
        tmp_path / "q.gguf",
        stages=captured.stages,
        encodings={name: encode(captured.params[name], "Q8_0") for name in names},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
    )
    model = read_model(path)
    assert model.bits_per_weight == 8 * path.stat().st_size / captured.metadata.parameter_count
    bits = 0.0
    for name in names:
        rows, columns = captured.params[name].shape
        bits += 8 * rows * math.ceil(columns / 32) * 34
    elements = sum(captured.params[name].numel() for name in names)
    assert model.quantized_bits_per_weight == pytest.approx(bits / elements)


def test_a_padded_row_is_read_back_without_its_padding(captured, tmp_path):
    name = "model.state_proj.weight"
    assert captured.params[name].shape[1] == 8
    path = write_model(
        tmp_path / "q.gguf",
        stages=captured.stages,
        encodings={name: encode(captured.params[name], "Q8_0")},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
    )
    model = read_model(path)
    info = model.tensors["state_proj.w"]
    assert (info.type, info.shape, info.bytes) == ("Q8_0", (64, 8), 64 * 34)
    read = torch.from_numpy(model.load("state_proj.w"))
    torch.testing.assert_close(read, captured.params[name], atol=0.01, rtol=0)


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = torch.nn.Conv2d(3, 8, 3)
        self.grouped = torch.nn.Conv2d(8, 8, 3, groups=2)
        self.flat = torch.nn.Conv1d(8, 4, 5)

    def forward(self, x):
        return {"y": self.flat(self.grouped(self.plain(x)).flatten(2))}


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "F32"])
def test_weights_of_convolutions_are_matrices_of_any_type(captured, tmp_path, kind):
    torch.manual_seed(0)
    inputs = {"x": torch.randn(2, 3, 9, 7)}
    graph = capture_stage(Convolutions(), inputs, "vision")
    params = {name: n.tensor for name, n in graph.params().items()}
    matrices = {name: params[name].flatten(1) for name in ("plain.weight", "flat.weight")}
    path = write_model(
        tmp_path / "c.gguf",
        stages={"vision": graph},
        encodings={name: encode(m, kind) for name, m in matrices.items()} if kind == "Q8_0" else {},
        metadata=captured.metadata,
        float_type="F16" if kind == "F16" else "F32",
    )
    model = read_model(path)
    assert {name: model.tensors[name].type for name in params} == {
        name: kind if name in matrices else "F32" for name in params
    }
    for name, tensor in params.items():
        assert model.load(name).shape == tuple(tensor.shape)
        torch.testing.assert_close(torch.from_numpy(model.load(name)), tensor, atol=3e-3, rtol=0)
    got = interpret(model.graph("vision"), inputs)["y"]
    torch.testing.assert_close(got, interpret(graph, inputs)["y"], atol=2e-2, rtol=0)


def test_half_precision_is_for_matrices_only(captured, tmp_path):
    path = write_model(
        tmp_path / "h.gguf",
        stages=captured.stages,
        encodings={},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
        float_type="F16",
    )
    kinds = {name: info.type for name, info in read_model(path).tensors.items()}
    assert kinds["language.embed_tokens.w"] == kinds["state_proj.w"] == "F16"
    assert kinds["state_proj.b"] == kinds["expert.norm.w"] == "F32"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.vlm_with_expert.lm_expert.norm.weight", {}, "encodings of what is not only"),
        ("model.state_proj.weight", {"type": "Q9_9"}, "ggml has no type Q9_9"),
        ("model.state_proj.weight", {"shape": (64, 7)}, r"wanted \[64, 8\]"),
        ("model.state_proj.weight", {"data": np.zeros((64, 33), np.uint8)}, r"uint8\[64, 34\]"),
    ],
)
def test_a_wrong_encoding_is_refused_and_nothing_is_left(captured, tmp_path, name, change, message):
    encoding = replace(encode(captured.params["model.state_proj.weight"], "Q8_0"), **change)
    with pytest.raises(ModelFileError, match=message):
        write_model(
            tmp_path / "model.gguf",
            stages=captured.stages,
            encodings={name: encoding},
            metadata=captured.metadata,
        )
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(captured, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")
    interface = replace(captured.metadata.interface, control_rate_hz=None)
    with pytest.raises(ModelFileError, match="control_rate_hz is unknown"):
        write_model(
            path,
            stages=captured.stages,
            encodings={},
            metadata=replace(captured.metadata, interface=interface),
            tensor_names=captured.tensor_names,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"] and path.read_bytes() == b"old"


def test_golden_outputs_are_replaced_and_nothing_else(file, tmp_path):
    copy = tmp_path / "model.gguf"
    copy.write_bytes(file.read_bytes())
    golden = [{"seed": 1, "prompt": "é", "masked_cameras": [], "actions": [[0.5]]}]
    with_golden(copy, golden)
    old, new = read_model(file), read_model(copy)
    assert new.metadata == replace(old.metadata, golden=golden)
    assert new.programs == old.programs and new.tensors == old.tensors
    for name in old.tensors:
        assert np.array_equal(new.load(name), old.load(name))


def test_metadata_with_room_is_exchanged_in_place(captured, tmp_path):
    given = dict(
        stages=captured.stages,
        encodings={},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
        float_type="BF16",
        reserved_bytes={"golden": 5000, "allocation": 100},
    )
    path = write_model(tmp_path / "m.gguf", **given)
    size, inode = path.stat().st_size, path.stat().st_ino
    assert model_bytes(**given) == size
    golden = [{"seed": 1, "prompt": "p", "masked_cameras": [], "actions": [[0.5] * 99]}]
    with_metadata(path, golden=golden, allocation={"x": 1})
    model = read_model(path)
    assert model.metadata.golden == golden and model.metadata.allocation == {"x": 1}
    assert (path.stat().st_size, path.stat().st_ino) == (size, inode)
    name = "state_proj.w"
    assert model.tensors[name].type == "BF16"
    stored = captured.params["model.state_proj.weight"].bfloat16().float()
    assert np.array_equal(model.load(name), stored.numpy())
    with_golden(path, golden * 20)
    assert path.stat().st_size > size and read_model(path).metadata.golden == golden * 20


def test_every_truncation_is_detected(file, tmp_path):
    whole = file.read_bytes()
    reader = gguf.GGUFReader(file)
    end = max(t.data_offset + t.n_bytes for t in reader.tensors)
    start = min(t.data_offset for t in reader.tensors)
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 20, 1000, start - 100, start, start + 1, (start + end) // 2, end - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            read_model(cut)


def test_foreign_and_newer_files_are_refused(file, captured, tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="architecture 'llama', not a policy"):
        read_model(path)
    write_model(
        path,
        stages={},
        encodings={},
        metadata=replace(captured.metadata, format_version=4),
    )
    with pytest.raises(ModelFileError, match="format version 4; .* Update actquant"):
        read_model(path)
    write_model(
        path,
        stages={},
        encodings={},
        metadata=replace(captured.metadata, format_version=1),
    )
    with pytest.raises(ModelFileError, match="version 1; .* Compress it again"):
        read_model(path)
    path.write_text("hello")
    with pytest.raises(ModelFileError, match="not a GGUF"):
        read_model(path)
    with pytest.raises(ModelFileError, match="No such file"):
        read_model(tmp_path / "nothing.gguf")


def test_all_missing_keys_are_listed(tmp_path):
    path = tmp_path / "bare.gguf"
    writer = gguf.GGUFWriter(path, "actquant")
    writer.add_uint32("actquant.format_version", 3)
    writer.add_array("actquant.stages", ["vision"])
    writer.add_key_value("actquant.shapes", "", gguf.GGUFValueType.STRING)
    writer.add_uint64(HEADER_KEY, 0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    seal_header(path)
    with pytest.raises(ModelFileError) as caught:
        read_model(path)
    message = str(caught.value)
    for key in ("general.name", "actquant.driver", "actquant.graph.vision"):
        assert key in message
    assert "actquant.format_version" not in message
