"""A whole policy, captured: all stages, their parameters, and the file's metadata."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import actquant
from actquant.capture.report import CaptureReport, capture_report
from actquant.capture.stages import capture_stages
from actquant.common.clock import iso_date
from actquant.common.errors import CheckpointError
from actquant.format.encoding import matrix_shape
from actquant.format.model_file import matrix_weights, write_model
from actquant.format.schema import ModelMetadata
from actquant.policies.base import (
    Group,
    LoadedPolicy,
    MatrixKind,
    PolicyFamily,
    QuantizableTensor,
)
from actquant.program.ir import Graph, Node

logger = logging.getLogger(__name__)

MAX_NAME = 60
ABBREVIATIONS = (
    ("self_attn.", "attn."),
    ("post_attention_layernorm", "norm2"),
    ("input_layernorm", "norm1"),
    ("layer_norm", "norm"),
    ("embeddings", "emb"),
    ("embedding", "emb"),
    (".weight", ".w"),
    (".bias", ".b"),
)


class Parameters(Mapping[str, Tensor]):
    """Parameters by name, float32; those that are on disk are read each time they are asked for."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = dict(nodes)

    def __getitem__(self, name: str) -> Tensor:
        return self._nodes[name].tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a parameter's shape, which is known without reading it."""
        return self._nodes[name].shape


@dataclass(frozen=True)
class CapturedPolicy:
    """Programs and parameters of a policy, ready for `write_model`."""

    stages: dict[str, Graph]
    params: Parameters
    """Every parameter that a program reads, by its name in the policy, float32."""
    dropped: tuple[str, ...]
    """Parameters that inference never reads; they are not written and not counted."""
    tensor_names: dict[str, str]
    """Parameter name -> name of the tensor in the file."""
    single_precision: tuple[str, ...]
    """Parameters of `params` that stay F32 beside BF16 (`PolicyFamily.single_precision`)."""
    metadata: ModelMetadata
    report: CaptureReport


def capture_policy(loaded: LoadedPolicy) -> CapturedPolicy:
    """Captures all stages (once per loaded policy; later calls return the same object).

    Raises UnsupportedOperatorError, naming operator, stage and source line.
    """
    if not is_captured(loaded):
        use_stages(loaded, policy_stages(loaded))
    captured: CapturedPolicy = loaded.cache["captured"]
    if captured.metadata.interface is not loaded.interface:
        metadata = replace(captured.metadata, interface=loaded.interface)
        captured = loaded.cache["captured"] = replace(captured, metadata=metadata)
    return captured


def policy_stages(loaded: LoadedPolicy) -> dict[str, Graph]:
    """Captures all stages (see `capture_stages`); parameters have their names in the policy."""
    stages = capture_stages(loaded)
    for graph in stages.values():
        for n in graph.nodes():
            n.name = n.name.removeprefix("policy.") if n.op == "param" else n.name
            n.origin = frozenset(name.removeprefix("policy.") for name in n.origin)
    return stages


def is_captured(loaded: LoadedPolicy) -> bool:
    """Returns whether `capture_policy` has nothing left to do."""
    return "captured" in loaded.cache


def use_stages(loaded: LoadedPolicy, stages: dict[str, Graph]) -> None:
    """Makes `capture_policy` return these stages, which were captured from this policy."""
    loaded.cache["captured"] = _captured(loaded, stages)


def _captured(loaded: LoadedPolicy, stages: dict[str, Graph]) -> CapturedPolicy:
    params: dict[str, Node] = {}
    read: set[str] = set()
    for graph in stages.values():
        for n in graph.nodes():
            read |= n.origin
            if n.op == "param":
                params[n.name] = n
    read |= set(params)
    everything = dict(loaded.policy.named_parameters())
    dropped = tuple(name for name in everything if name not in read)
    report = capture_report(stages, {name: p.numel() for name, p in everything.items()})
    for warning in report.warnings:
        logger.warning(warning)
    return CapturedPolicy(
        stages=stages,
        params=Parameters(params),
        dropped=dropped,
        tensor_names=short_names(list(params), loaded.family.short_names),
        single_precision=tuple(
            name
            for name in params
            if any(re.match(pattern, name) for pattern in loaded.family.single_precision)
        ),
        metadata=ModelMetadata(
            name=loaded.title,
            family=loaded.family.policy_type,
            parameter_count=sum(p.numel() for name, p in everything.items() if name in read),
            interface=loaded.interface,
            provenance=_provenance(loaded, dropped),
        ),
        report=report,
    )


def _provenance(loaded: LoadedPolicy, dropped: tuple[str, ...]) -> dict[str, Any]:
    return {
        "checkpoint": loaded.name or loaded.folder.resolve().name,
        **({} if loaded.revision is None else {"checkpoint_revision": loaded.revision}),
        **({} if loaded.license is None else {"checkpoint_license": loaded.license}),
        "checkpoint_sha256": loaded.checkpoint_sha256,
        "tool": f"actquant {actquant.__version__}",
        "date": iso_date(),
        "dropped_parameters": list(dropped),
    }


def short_names(names: list[str], replacements: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Returns unique tensor names of at most 60 characters; a longer one keeps its ends and gets a
    hash."""
    result: dict[str, str] = {}
    for name in names:
        short = name
        prefix = next(((a, b) for a, b in replacements if short.startswith(a)), None)
        if prefix:
            short = prefix[1] + short[len(prefix[0]) :]
        for long, abbreviation in ABBREVIATIONS:
            short = short.replace(long, abbreviation)
        if len(short) > MAX_NAME or short in result.values():
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            short = f"{short[:20]}~{digest}~{short[-30:]}"
        result[name] = short
    return result


def quantizable(
    loaded: LoadedPolicy, kinds: Collection[MatrixKind] = ("linear",)
) -> list[QuantizableTensor]:
    """Returns the weight matrices of these kinds that inference reads, in the order in which it
    reads them.

    Each is the weight of one module, and used as a matrix and as nothing else.
    """
    captured = capture_policy(loaded)
    modules = dict(loaded.policy.named_modules())
    linear = set(linear_weights(captured.stages))
    tensors = []
    for name in matrix_weights(captured.stages):
        module = name.removesuffix(".weight")
        kind = _kind_of(modules.get(module))
        shape = captured.params.shape(name)
        if kind is None or kind not in kinds or (kind == "linear" and name not in linear):
            continue
        if math.prod(shape) != loaded.policy.get_parameter(name).numel():
            continue  # a part of it, or a product of it with something else
        group, layer = _group_of(loaded.family, name, kind)
        tensors.append(QuantizableTensor(name, module, layer, group, matrix_shape(shape), kind))
    return tensors


def _kind_of(module: nn.Module | None) -> MatrixKind | None:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return "convolution" if module.groups == 1 else None
    return "embedding" if isinstance(module, nn.Embedding) else None


def _group_of(family: PolicyFamily, name: str, kind: MatrixKind) -> tuple[Group, str]:
    """Group and layer; the embeddings and convolutions that no pattern names are one layer."""
    try:
        return family.group_of(name)
    except CheckpointError:
        if kind == "linear":
            raise
        return "projection", "embeddings"


def matrices_of_fixed_type(loaded: LoadedPolicy, chosen: Collection[str]) -> list[str]:
    """Returns the parameters that may be stored in any type, but for those that are chosen."""
    return [
        name for name in matrix_weights(capture_policy(loaded).stages) if name not in set(chosen)
    ]


def free_vectors(captured: CapturedPolicy) -> list[str]:
    """Returns the norms and biases that the file holds as they are in the policy: other values of
    them are other values in the file, since nothing was folded from them."""
    nodes = [n for graph in captured.stages.values() for n in graph.nodes()]
    folded = frozenset().union(*(n.origin for n in nodes if n.op == "const"))
    return [
        name
        for name in captured.params
        if len(captured.params.shape(name)) == 1 and name not in folded
    ]


def linear_weights(stages: dict[str, Graph]) -> list[str]:
    """Parameters whose every use is as the weight of `linear`."""
    return matrix_weights(stages, lambda n, position: (n.op, position) == ("linear", 1))


def convert_f32(
    loaded: LoadedPolicy, path: str | Path, values: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Captures and writes an unquantized float32 file; returns its path. values: as of
    `write_model`."""
    captured = capture_policy(loaded)
    return write_model(
        path,
        stages=captured.stages,
        encodings={},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
        values=values,
    )
