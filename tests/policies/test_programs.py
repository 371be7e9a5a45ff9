"""ACT and the diffusion families as files: the programs are the policy, in the interpreter and in
the runtime, in f32 and in half precision."""

from collections.abc import Callable
from pathlib import Path

import half_file
import pytest
from tiny_cnn_policies import build_tiny_act, build_tiny_diffusion
from tiny_multi_task_dit import build_tiny_multi_task_dit
from torch import nn

from actquant.capture.policy import capture_policy, convert_f32, quantizable
from actquant.fidelity.parity import measure_parity
from actquant.fidelity.reference_runner import ReferenceRunner
from actquant.policies import LoadedPolicy, load_policy

PROMPTS = ("push", "put the Cup on the tray, then the lid", "lift")
CASES: dict[str, tuple[Callable[..., Path], dict]] = {
    "act": (build_tiny_act, {"n_decoder_layers": 2}),
    "act-statistics": (build_tiny_act, {"same_statistics": False}),
    "diffusion": (build_tiny_diffusion, {}),
    "diffusion-separate": (
        build_tiny_diffusion,
        {
            "use_separate_rgb_encoder_per_camera": True,
            "use_group_norm": True,
            "noise_scheduler_type": "DDIM",
            "resize_shape": (44, 52),
            "crop_ratio": 0.9,
        },
    ),
    "multi_task_dit": (build_tiny_multi_task_dit, {}),
    "multi_task_dit-flow": (
        build_tiny_multi_task_dit,
        {"objective": "flow_matching", "use_rope": False, "legacy_end": True, "n_obs_steps": 1},
    ),
}


@pytest.fixture(scope="module", params=CASES.keys())
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    build, settings = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    return load_policy(build(folder, **settings), control_rate_hz=10)


@pytest.fixture(scope="module")
def file(loaded: LoadedPolicy, tmp_path_factory) -> Path:
    return convert_f32(loaded, tmp_path_factory.mktemp("file") / "policy.gguf")


def test_the_programs_are_the_policy(loaded, file: Path):
    runner = ReferenceRunner.from_file(file)
    report = measure_parity(file, loaded, prompts=PROMPTS, n=3, runner=runner)
    assert report.distance.worst < 2e-6, str(report)


def test_the_runtime_is_the_policy(loaded, file: Path):
    report = measure_parity(file, loaded, prompts=PROMPTS, n=4)
    assert report.distance.worst < 1e-5, str(report)


@pytest.mark.parametrize("kind", half_file.TYPES)
def test_half_precision_weights_cost_less_than_pytorchs_own(loaded, tmp_path: Path, kind):
    half_file.check_half_precision(loaded, kind, tmp_path, PROMPTS, 12)


def test_linear_weights_that_inference_reads_may_be_quantized(loaded):
    tensors = quantizable(loaded)
    modules = dict(loaded.policy.named_modules())
    assert len(tensors) >= 9
    for t in tensors:
        assert isinstance(modules[t.module], nn.Linear)
        assert t.layer.split(".")[0] == t.group


def test_what_depends_on_the_time_alone_is_a_table(loaded):
    captured = capture_policy(loaded)
    if loaded.interface.sampler is None:
        assert set(captured.stages) == {"vision", "prefix"}
        return
    denoise = captured.stages["denoise"]
    assert not {"sin", "cos"} & set(denoise.histogram())
    assert "timestep" not in {n.name for n in denoise.inputs}
    read = {part for name in denoise.params() for part in name.split(".")}
    assert not {"observation", "time", "time_mlp", "diffusion_step_encoder"} & read


def test_what_only_training_reads_is_dropped(loaded):
    dropped = set(capture_policy(loaded).dropped)
    assert not {name for name in dropped if "rgb_encoder" in name or "unet" in name}
    if loaded.family.policy_type == "act":
        assert {name for name in dropped if "vae_encoder" in name}
        assert "model.encoder_latent_input_proj.weight" in dropped
        assert not {name for name in dropped if name.startswith("model.backbone")}


def test_there_is_no_batch_norm_left(loaded):
    assert not [m for m in loaded.policy.modules() if isinstance(m, nn.BatchNorm2d)]
    vision = capture_policy(loaded).stages["vision"].histogram()
    assert vision["mul"] <= 2  # CLIP's quick GELU; a batch norm would be one per convolution
