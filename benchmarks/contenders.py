"""Who answers an observation in side_by_side.py, each as a function that makes one chunk.

`actquant` is our runtime, `ggml` the same held to ggml's own kernels (ACTQUANT_ISA=ggml). PyTorch
runs LeRobot's own policy: in float32, with bfloat16 weights under autocast, and so compiled
(torch.compile, as LeRobot's `compile_model`). OpenVINO (`pip install openvino nncf`) and ONNX
Runtime (`pip install onnxruntime onnx onnxscript`) run our captured stages at the longest prompt,
as often as a chunk needs them: in bfloat16 (OpenVINO) or float32, and with weights of 8 or 4 bits
that their own tools make. They are spared the pictures' preparation and the tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OURS = ("actquant", "ggml")
PYTORCH = ("pytorch-f32", "pytorch-bf16", "pytorch-bf16-compiled")
OPENVINO = ("openvino-bf16", "openvino-int8", "openvino-int4")
ONNX = ("onnxruntime-f32", "onnxruntime-int8", "onnxruntime-int4")
CONTENDERS = OURS + PYTORCH + OPENVINO + ONNX

GROUP = 64
"""Weights that share a scale of 4 bits, at most."""

Act = Callable[[], Any]


def make_actor(name: str, checkpoint: Path, file: Path, threads: int) -> Act:
    """Loads a policy for a contender and returns what makes a chunk of a golden observation."""
    if name in OURS:
        return _runtime_actor(file, threads)
    if name in PYTORCH:
        return _pytorch_actor(name, checkpoint, file, threads)
    if name in OPENVINO:
        return _openvino_actor(name, checkpoint, threads)
    return _onnx_actor(name, checkpoint, threads)


def _runtime_actor(file: Path, threads: int) -> Act:
    from actquant_runtime import Runtime, golden_observation

    runtime = Runtime(str(file), threads=threads)
    observation, noise = golden_observation(runtime.describe(), seed=1)
    return lambda: runtime.act(observation, noise=noise)


def _pytorch_actor(name: str, checkpoint: Path, file: Path, threads: int) -> Act:
    import torch
    from actquant_runtime import Runtime, golden_observation

    from actquant.policies import load_policy

    torch.set_num_threads(threads)
    observation, noise = golden_observation(Runtime(str(file), threads=1).describe(), seed=1)
    loaded = load_policy(checkpoint)
    if name == "pytorch-f32":
        return lambda: loaded.family.act(loaded, observation, noise)
    loaded.policy.to(torch.bfloat16)
    if name == "pytorch-bf16-compiled":
        model = loaded.policy.model
        model.sample_actions = torch.compile(model.sample_actions)

    def act() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return loaded.family.act(loaded, observation, noise)

    return act


def _programs(checkpoint: Path) -> Iterator[tuple[Any, tuple[Any, ...], int]]:
    """Yields the captured stages as modules of PyTorch: module, example inputs, runs a chunk."""
    import torch

    from actquant.capture.policy import capture_policy
    from actquant.policies import load_policy
    from actquant.program.interpret import interpret
    from actquant.program.ir import DTYPE_TO_TORCH, Graph
    from actquant.program.size import at_length

    class Program(torch.nn.Module):
        def __init__(self, graph: Graph) -> None:
            super().__init__()
            self.graph = graph
            self.inputs = [n for n in graph.nodes() if n.op == "input"]

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            named = {n.name: value for n, value in zip(self.inputs, values, strict=True)}
            return tuple(interpret(self.graph, named).values())

    loaded = load_policy(checkpoint)
    face = loaded.interface
    steps = len(face.sampler.timesteps) if face.sampler else 1
    times = {"vision": len(face.cameras) * face.observation_steps, "denoise": steps}
    for name, graph in capture_policy(loaded).stages.items():
        program = Program(at_length(graph, face.tokenizer_max_length))
        examples = tuple(torch.ones(n.shape, dtype=DTYPE_TO_TORCH[n.dtype]) for n in program.inputs)
        yield program, examples, times.get(name, 1)


def _openvino_actor(name: str, checkpoint: Path, threads: int) -> Act:
    import openvino
    import torch

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16",
    }
    runs = []
    for program, examples, times in _programs(checkpoint):
        with torch.no_grad():
            traced = torch.jit.trace(program, examples, strict=False, check_trace=False)
            model = openvino.convert_model(traced, example_input=examples)
        if name != "openvino-bf16":
            model = _openvino_compressed(model, name)
        request = core.compile_model(model, "CPU", options).create_infer_request()
        # What stages hand on to each other is not copied, each reads an input of its own.
        runs += [(request, [x.numpy() for x in examples])] * times

    def act() -> None:
        for request, inputs in runs:
            request.infer(inputs, share_inputs=True)

    return act


def _openvino_compressed(model: Any, name: str) -> Any:
    import nncf

    if name == "openvino-int8":
        return nncf.compress_weights(model)
    smaller_groups = nncf.GroupSizeFallbackMode.ADJUST  # rows of 720 are no multiple of 64
    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        group_size=GROUP,
        ratio=1.0,
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=smaller_groups
        ),
    )


def _onnx_actor(name: str, checkpoint: Path, threads: int) -> Act:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (program, examples, times) in enumerate(_programs(checkpoint)):
            path = Path(folder) / f"{number}.onnx"
            with torch.no_grad():
                torch.onnx.export(program.eval(), examples, path, dynamo=True, verbose=False)
            if name != "onnxruntime-f32":
                path = _onnx_compressed(path, name)
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            values = [x.numpy() for x in examples]
            inputs = {x.name: value for x, value in zip(session.get_inputs(), values, strict=True)}
            runs += [(session, inputs)] * times

    def act() -> None:
        for session, inputs in runs:
            session.run(None, inputs)

    return act


def _onnx_compressed(path: Path, name: str) -> Path:
    """Returns the model beside it with weights of 8 bits (dynamic quantization) or 4 (in groups,
    activations in 8 bits)."""
    small = path.with_suffix(f".{name}.onnx")
    if name == "onnxruntime-int8":
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(path, small, per_channel=True, use_external_data_format=True)
        return small
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(path), bits=4, block_size=GROUP, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(small), use_external_data_format=True)
    return small
