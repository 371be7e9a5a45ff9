"""Files that must be refused, and what the error says."""

import gguf
import numpy as np
import pytest
from actquant_runtime import ModelFileError, Runtime
from policy_files import PROGRAMS, weights, write_policy


def refusal(path) -> str:
    with pytest.raises(ModelFileError) as caught:
        Runtime(path)
    return str(caught.value)


def test_missing_empty_and_foreign_files(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.gguf")
    assert "no regular file" in refusal(tmp_path)
    empty = tmp_path / "empty.gguf"
    empty.touch()
    assert "empty" in refusal(empty)
    text = tmp_path / "text.gguf"
    text.write_text("this is not a model")
    assert "is not a GGUF file" in refusal(text)


def test_gguf_of_another_architecture(tmp_path):
    path = write_policy(tmp_path / "llama.gguf", architecture="llama")
    assert "architecture 'llama'" in refusal(path)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file(tmp_path, kept):
    whole = write_policy(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * kept)])
    message = refusal(path)
    assert "truncated" in message


def test_corrupt_header(tmp_path):
    data = bytearray(write_policy(tmp_path / "whole.gguf").read_bytes())
    data[8:16] = b"\xff" * 8
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_a_damaged_text_is_shown_as_far_as_it_is_one(tmp_path):
    path = write_policy(tmp_path / "policy.gguf")
    path.write_bytes(path.read_bytes().replace(b"actquant", b"act\xff\xc8ant", 1))
    assert "architecture 'act\ufffd\ufffdant'" in refusal(path)


def test_other_format_versions(tmp_path):
    keys = {"actquant.format_version": ("uint32", 4)}
    message = refusal(write_policy(tmp_path / "new.gguf", keys=keys))
    assert "has format version 4" in message and "reads version 3. Update actquant." in message
    keys = {"actquant.format_version": ("uint32", 1)}
    message = refusal(write_policy(tmp_path / "old.gguf", keys=keys))
    assert "has format version 1" in message and "Compress it again." in message


def test_all_missing_keys_and_tensors_are_named_at_once(tmp_path):
    tensors = weights()
    keys = {"actquant.state.mean": None, "actquant.prompt.template": None,
            "actquant.control_rate_hz": ("string", "fast")}  # fmt: skip
    path = write_policy(tmp_path / "gaps.gguf", keys=keys)
    programs = {
        "denoise": PROGRAMS["denoise"].replace("@k.w", "@gone.w").replace("@q.w", "@lost.w")
    }
    path = write_policy(tmp_path / "gaps.gguf", keys=keys, programs=programs, tensors=tensors)
    message = refusal(path)
    for part in (
        "actquant.state: names, mean and std have 3, 0 and 3 elements",
        "the key actquant.prompt.template (str) is missing",
        "the key actquant.control_rate_hz is str, expected f32",
        "the tensor gone.w of stage 'denoise' is missing",
        "the tensor lost.w of stage 'denoise' is missing",
    ):
        assert part in message


@pytest.mark.parametrize("key", [
    "actquant.format_version", "actquant.driver", "actquant.stages", "actquant.shapes",
    "actquant.graph.prefix", "actquant.cameras", "actquant.image.scale",
    "actquant.golden", "actquant.action.steps_per_chunk", "general.name", "actquant.noise.rows",
    "actquant.observation.steps", "actquant.tokenizer.min_length", "actquant.prompt.state_bins",
    "actquant.image.source_height", "actquant.sampler.coefficients", "actquant.tokenizer.suffix",
])  # fmt: skip
def test_each_key_is_required(tmp_path, key):
    assert key in refusal(write_policy(tmp_path / "gap.gguf", keys={key: None}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"actquant.driver": ("string", "tokens")}, "is 'tokens'; this runtime has one_shot and"),
        ({"actquant.driver": ("string", "one_shot")}, "one_shot has no actquant.sampler keys"),
        ({"actquant.driver": ("string", "one_shot")}, "nothing runs the stage 'denoise'"),
        ({"actquant.sampler.coefficients": ("array", [0.0] * 31)},
         "has 31 elements, expected 8 for each of the 4 timesteps"),
        ({"actquant.sampler.coefficients": ("array", [float("nan")] * 32)}, "not all finite"),
        ({"actquant.noise.rows": ("uint32", 0)}, "needs positive actquant.noise.rows"),
        ({"actquant.noise.rows": ("uint32", 4)}, "input x_t is f32[1,3,4], expected f32[1,4,4]"),
        ({"actquant.observation.steps": ("uint32", 0)}, "observation.steps must be positive"),
        ({"actquant.observation.steps": ("uint32", 2)}, "state is f32[1,5], expected f32[2,5]"),
        ({"actquant.tokenizer.json": None}, "max_length is 6 but there is no actquant.tokenizer"),
        ({"actquant.tokenizer.min_length": ("uint32", 7)}, ".max_length are 7 and 6"),
        ({"actquant.tokenizer.max_length": ("uint32", 0)}, ".max_length are 2 and 0"),
        ({"actquant.prompt.task_steps": ("array", ["upper"])}, "task_steps has 'upper'; there are"),
        ({"actquant.prompt.template": ("string", "{state}")}, "has {state} but actquant.prompt"),
        ({"actquant.image.steps": ("array", ["shear height=6"])}, "shear"),
        ({"actquant.tokenizer.max_length": ("uint32", 1 << 20)}, "more than this runtime's 65536"),
        ({"actquant.state.clip": ("float32", 0.0)}, "state.clip must be positive"),
        ({"actquant.action.steps_per_chunk": ("uint32", 4)}, "from 1 to chunk_length"),
        ({"actquant.cameras": ("array", ["observation.images.scene"])},
         "nothing provides the input image_embedding_1"),
        ({"actquant.cameras": None, "actquant.cameras.optional": ("uint32", 0)},
         "nothing runs the stage 'vision'"),
        ({"actquant.image.height": ("uint32", 0)}, ".height and .width must be positive"),
        ({"actquant.cameras": ("int32", 2)}, "the key actquant.cameras is no array of str"),
        ({"actquant.cameras.optional": ("uint32", 4)}, "shorter than actquant.cameras.optional"),
        ({"actquant.state.mean": ("array", [0.0, 1.0])}, "have 3, 2 and 3 elements"),
        ({"actquant.action.std": None}, "have 2, 2 and 0 elements"),
        ({"actquant.action.names": None, "actquant.action.mean": None, "actquant.action.std": None},
         "actquant.action.names is empty"),
        ({"actquant.sampler.timesteps": None}, "has 32 elements, expected 8 for each of the 0"),
        ({"actquant.sampler.timesteps": None, "actquant.sampler.coefficients": None},
         "the driver sampling needs actquant.sampler.timesteps and .coefficients"),
        ({"actquant.state.std": ("array", [0.0, 1.0, float("nan")])}, "are not finite"),
        ({"actquant.state.std": ("array", [-1.0, 1.0, 1.0])}, "'a_rad' is not positive"),
        ({"actquant.state.padded_dim": ("uint32", 2)}, "below the number of names"),
        ({"actquant.image.width": ("uint32", 6)}, r"image is f32[1,3,6,12], expected"),
        ({"actquant.action.chunk_length": ("uint32", 7)}, "is not the chunk [1,7,4]"),
        ({"actquant.tokenizer.json": ("string", "{}")}, "tokenizer.json cannot be read"),
    ],
)  # fmt: skip
def test_inconsistent_keys(tmp_path, keys, message):
    assert message in refusal(write_policy(tmp_path / "odd.gguf", keys=keys))


WITH_A_LONGER_TOKEN_MASK = {
    "prefix": PROGRAMS["prefix"].replace("b8[1,L]", "b8[1,1+L]").replace("b8[1,5+L]", "b8[1,6+L]")
}


def with_line(stage: str, old: str, new: str) -> dict[str, str]:
    assert old in PROGRAMS[stage]
    return {stage: PROGRAMS[stage].replace(old, new)}


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (with_line("denoise", "= mul f32", "= fft f32"),
         "line 18, %17 = fft: this runtime has no such operator on the device"),
        (with_line("prefix", "host.le", "host.gt"), "%15 = host.gt: this runtime has no such"),
        (with_line("denoise", "%14 %16", "%14 %99"), "%99 is not defined before this line"),
        (with_line("denoise", "%16 = reshape", "%14 = reshape"), "the value is defined twice"),
        (with_line("denoise", "f32[1,1,1]", "f16[1,1,1]"), "is no type"),
        (with_line("denoise", "f32[1,1,1] %1", "f32[1,1,2] %1"), "the operand is [1,1]"),
        (with_line("denoise", "f32[1,1] @times", "f32[1,2] @times"), "the result is [1,1]"),
        (with_line("denoise", "i64[1]", "f32[1]"), "must be computed on the host"),
        (with_line("prefix", "tokens", "words"), "nothing provides the input words"),
        (with_line("prefix", "f32[1,L,8]", "f32[1,1+L,8]"), "the result is [1,2,8]"),
        (with_line("prefix", "f32[1,5+L,8]", "f32[1,9+-1*L,8]"), "the program declares [1,3,8]"),
        (with_line("prefix", "i64[1,L]", "i64[1,-2+L]"), "tokens: line 5, %4: the shape is [1,0]"),
        (with_line("denoise", "causal=0", ""), "the attribute causal is missing"),
        (with_line("denoise", "scale=0.5", "scale=half"), "scale=half is not a number"),
        (with_line("denoise", "scale=0.5", "scale"), "'scale' is neither an operand nor key=value"),
        (with_line("denoise", "output output %18", ""), "the program has no output"),
        (with_line("denoise", "output output", "output speed"), "lacks the output output"),
        (with_line("denoise", "name=keys", "name=values"), "nothing provides the input values"),
        (with_line("denoise", "@q.w", "@k.w"), "the weight [8,8]"),
        (with_line("denoise", "@q.w", "%0"), "must be a tensor of the file"),
        (with_line("denoise", "perm=[0,2,1,3]\n%7", "perm=[0,2,2,3]\n%7"), "perm does not fit"),
        (with_line("prefix", "dim=1\n%11", "dim=5\n%11"), "is no dimension of rank 3"),
        (with_line("prefix", "host.reshape b8[1,1] %1", "host.reshape b8[1,1] %8"),
         "a host operator cannot use the device value %8"),
        (with_line("prefix", "b8[1,5+L] %12", "b8[1,6+L] %12"), "the parts add up to 7"),
        (WITH_A_LONGER_TOKEN_MASK,
         "token_mask is b8[1,3], expected b8[1,2]"),
        (WITH_A_LONGER_TOKEN_MASK,
         "key_mask is b8[1,7], expected b8[1,8]"),
        (with_line("vision", "pad=[0,0]", "pad=[0]"), "the weight [8,3,6,6]"),
        (with_line("vision", "groups=1", "groups=2"), "the weight [8,3,6,6]"),
    ],
)  # fmt: skip
def test_invalid_programs(tmp_path, programs, message):
    assert message in refusal(write_policy(tmp_path / "program.gguf", programs=programs))


def test_all_problems_of_a_program_are_reported(tmp_path):
    text = PROGRAMS["denoise"].replace("= mul ", "= fft ").replace("= sdpa ", "= attend ")
    message = refusal(write_policy(tmp_path / "two.gguf", programs={"denoise": text}))
    assert "%11 = attend" in message and "%17 = fft" in message


def test_missing_stage(tmp_path):
    keys = {"actquant.stages": ("array", ["vision", "prefix"])}
    assert "lacks the stage 'denoise'" in refusal(write_policy(tmp_path / "stage.gguf", keys=keys))


def test_tensor_shapes(tmp_path):
    assert "does not list the tensor patch.w" in refusal(
        write_policy(tmp_path / "shapes.gguf", shapes="q.w [8,4]")
    )
    lines = [f"{name} [{','.join(map(str, w.shape))}]" for name, w in weights().items()]
    changed = "\n".join(lines).replace("q.w [8,4]", "q.w [4,8]")
    message = refusal(write_policy(tmp_path / "shapes.gguf", shapes=changed))
    assert "the tensor q.w is stored as [1,1,8,4], which does not fit its shape [4,8]" in message
    broken = "\n".join(lines).replace("q.w [8,4]", "q.w 8 4")
    assert "is not 'name [d0,d1,…]'" in refusal(
        write_policy(tmp_path / "shapes.gguf", shapes=broken)
    )


def test_gguf_without_our_keys(tmp_path):
    path = tmp_path / "bare.gguf"
    writer = gguf.GGUFWriter(path, "actquant")
    writer.add_tensor("w", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "actquant.format_version" in refusal(path)


def test_unreasonable_thread_counts(tmp_path):
    path = write_policy(tmp_path / "tiny.gguf")
    for threads in (-1, 100000):
        with pytest.raises(ValueError, match="threads must be between"):
            Runtime(path, threads=threads)
