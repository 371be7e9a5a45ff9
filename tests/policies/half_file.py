"""Files whose matrices are F16 or BF16, and how far they are from single precision."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from actquant_runtime import Runtime

from actquant.capture.policy import CapturedPolicy, capture_policy
from actquant.fidelity.parity import golden_observations
from actquant.format.golden import GoldenInput
from actquant.format.model_file import write_model
from actquant.policies import LoadedPolicy

TYPES = ("F16", "BF16")
Answer = Callable[[GoldenInput], np.ndarray]


def write_half(captured: CapturedPolicy, path: Path, kind: str) -> Path:
    return write_model(
        path,
        stages=captured.stages,
        encodings={},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
        float_type=kind,
        single_precision=captured.single_precision,
    )


def check_half_precision(
    loaded: LoadedPolicy,
    kind: str,
    folder: Path,
    prompts: Sequence[str],
    n: int,
    in_bfloat16: LoadedPolicy | None = None,
) -> None:
    """A file of this type is nearer to PyTorch in float32 than PyTorch in bfloat16 is, by the root
    mean square over n golden inputs.

    in_bfloat16: what PyTorch runs in bfloat16; without, `loaded` under autocast.
    """
    inputs = golden_observations(loaded, prompts, n)
    runtime = Runtime(str(write_half(capture_policy(loaded), folder / f"{kind}.gguf", kind)))

    def chunks(answer: Answer) -> np.ndarray:
        return np.stack([answer(x) for x in inputs])

    def by_pytorch(x: GoldenInput) -> np.ndarray:
        return loaded.family.act(in_bfloat16 or loaded, x.observation, x.noise)

    ours = chunks(lambda x: runtime.act(x.observation, noise=x.noise))
    expected = chunks(lambda x: loaded.family.act(loaded, x.observation, x.noise))
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16 is None):
        theirs = chunks(by_pytorch)
    distance, own = (np.sqrt(np.mean((x - expected) ** 2)) for x in (ours, theirs))
    assert 0 < distance < own
