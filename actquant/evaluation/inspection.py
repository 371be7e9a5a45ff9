"""What a model file holds, for people and scripts; needs no torch."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from actquant.common.errors import EvaluationError
from actquant.evaluation.bench import MemoryPrediction, predict_memory
from actquant.format.model_file import read_model


class TensorGroup(BaseModel):
    """Tensors of one ggml type in one part of the policy."""

    model_config = ConfigDict(extra="forbid")

    group: str
    type: str
    n_tensors: int
    n_weights: int
    bytes: int
    bits_per_weight: float


class StageSummary(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    inputs: list[str]
    outputs: list[str]
    device_operators: int
    host_operators: int


class Inspection(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    name: str
    family: str
    driver: str
    sampling_steps: int
    parameter_count: int
    file_bytes: int
    whole_file_bpw: float
    quantized_tensor_bpw: float | None
    control_rate_hz: float | None
    chunk_length: int
    steps_per_chunk: int
    cameras: list[str]
    optional_cameras: int
    image_size: tuple[int, int]
    prompt_max_tokens: int
    groups: list[TensorGroup]
    stages: list[StageSummary]
    state: dict[str, tuple[float, float]]
    action: dict[str, tuple[float, float]]
    golden_inputs: int
    provenance: dict[str, Any]
    memory: MemoryPrediction | None


def inspect_model(path: Path) -> Inspection:
    """Reads a file's metadata and its table of tensors, and predicts the memory it will need if
    the runtime is installed and can run it.

    Raises ModelFileError as `read_model` does.
    """
    model = read_model(path)
    about, face = model.metadata, model.metadata.interface
    provenance = {key: value for key, value in about.provenance.items() if key != "tensor_names"}
    return Inspection(
        path=str(path),
        name=about.name,
        family=about.family,
        driver=face.driver,
        sampling_steps=len(face.sampler.timesteps) if face.sampler else 0,
        parameter_count=about.parameter_count,
        file_bytes=model.path.stat().st_size,
        whole_file_bpw=model.bits_per_weight,
        quantized_tensor_bpw=model.quantized_bits_per_weight,
        control_rate_hz=face.control_rate_hz,
        chunk_length=face.chunk_length,
        steps_per_chunk=face.steps_per_chunk,
        cameras=list(face.cameras),
        optional_cameras=face.optional_cameras,
        image_size=(face.image_height, face.image_width),
        prompt_max_tokens=face.tokenizer_max_length,
        groups=_groups(model),
        stages=[_stage(name, program) for name, program in model.programs.items()],
        state=_statistics(face.state_names, face.state_mean, face.state_std),
        action=_statistics(face.action_names, face.action_mean, face.action_std),
        golden_inputs=len(about.golden or []),
        provenance=provenance,
        memory=_memory(model.path),
    )


def _memory(path: Path) -> MemoryPrediction | None:
    try:
        return predict_memory(path)
    except EvaluationError:
        return None


def _groups(model: Any) -> list[TensorGroup]:
    groups: dict[tuple[str, str], TensorGroup] = {}
    for tensor in model.tensors.values():
        part = tensor.name.split(".")[0]
        group = groups.setdefault(
            (part, tensor.type),
            TensorGroup(
                group=part, type=tensor.type, n_tensors=0, n_weights=0, bytes=0, bits_per_weight=0
            ),
        )
        size = 1
        for dimension in tensor.shape:
            size *= dimension
        group.n_tensors += 1
        group.n_weights += size
        group.bytes += tensor.bytes
        group.bits_per_weight = 8 * group.bytes / max(1, group.n_weights)
    return sorted(groups.values(), key=lambda group: (group.group, -group.bytes))


def _stage(name: str, program: str) -> StageSummary:
    lines = [line.split() for line in program.splitlines() if line]
    operators = [words[2] for words in lines if words[0] != "output" and words[2] != "input"]
    host = sum(operator.startswith("host.") for operator in operators)
    return StageSummary(
        name=name,
        inputs=[words[-1].partition("=")[2] for words in lines if words[1:3] == ["=", "input"]],
        outputs=[words[1] for words in lines if words[0] == "output"],
        device_operators=len(operators) - host,
        host_operators=host,
    )


def _statistics(
    names: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, tuple[float, float]]:
    """Name -> (mean, standard deviation) in the robot's units."""
    return {name: (m, s) for name, m, s in zip(names, mean, std, strict=True)}


def provenance_lines(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """Keys and values, long values shortened, for a table."""
    lines = []
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append((key, text if len(text) <= 100 else text[:97] + "…"))
    return lines
