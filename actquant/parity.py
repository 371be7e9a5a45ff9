"""Does a file compute what PyTorch computes? Whole action chunks, on inputs capture never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actquant.capture.interpret import interpret
from actquant.capture.ir import Graph
from actquant.errors import ParityError
from actquant.golden import GoldenInput, golden_inputs
from actquant.model_file import read_model
from actquant.model_schema import PolicyInterface
from actquant.policies.base import LoadedPolicy

F32_THRESHOLD = 1e-4
PROMPTS = (
    "put the bowl on the plate",
    "pick up the red block and place it in the left tray, then close the drawer",
    "push",
    "open the top drawer and put the mug inside",
)


class Runner(Protocol):
    """Anything that answers like `actquant_runtime.Runtime`."""

    def act(self, observation: Mapping[str, Any], *, noise: np.ndarray) -> np.ndarray:
        """observation as in `policies.base`, noise [H, padded A] -> float32 [H, A]."""
        ...


@dataclass(frozen=True)
class ParityReport:
    """Errors relative to the root mean square of the reference actions over all inputs.

    worst_rms is the root mean square error of the worst chunk; it is what the threshold judges.
    """

    max_abs: float
    rms: float
    worst_rms: float
    reference_rms: float
    threshold: float
    executor: str
    golden: list[dict[str, Any]]
    """What `model_file.with_golden` stores."""

    @property
    def passed(self) -> bool:
        return self.worst_rms <= self.threshold

    def __str__(self) -> str:
        return (
            f"{self.executor}: worst chunk {self.worst_rms:.2e} rms, max {self.max_abs:.2e}, all "
            f"{self.rms:.2e} rms of the actions' rms "
            f"({self.reference_rms:.3g}) over {len(self.golden)} inputs; "
            f"threshold {self.threshold:.0e}"
        )


def golden_observations(
    loaded: LoadedPolicy, prompts: Sequence[str] = PROMPTS, n: int = 16
) -> list[GoldenInput]:
    """n inputs made from seeds, over prompts of several lengths, some with a masked camera."""
    return golden_inputs(loaded.interface, prompts, n)


def check_parity(
    model_path: str | Path,
    loaded: LoadedPolicy,
    *,
    prompts: Sequence[str] = PROMPTS,
    n: int = 16,
    threshold: float = F32_THRESHOLD,
    runner: Runner | None = None,
) -> ParityReport:
    """Compare a file's actions with PyTorch's.

    runner: what executes the file; `actquant_runtime.Runtime` if absent. threshold: on the worst
    chunk's rms error relative to the actions' rms; 1e-4 suits float32 files.

    Raises ParityError with both errors if the threshold is passed or a result is not finite.
    """
    report = measure_parity(
        model_path, loaded, prompts=prompts, n=n, threshold=threshold, runner=runner
    )
    if not report.passed:
        raise ParityError(f"{model_path} does not compute what PyTorch computes: {report}")
    return report


def measure_parity(
    model_path: str | Path,
    loaded: LoadedPolicy,
    *,
    prompts: Sequence[str] = PROMPTS,
    n: int = 16,
    threshold: float = F32_THRESHOLD,
    runner: Runner | None = None,
) -> ParityReport:
    """As `check_parity`, without raising: for quantized files, whose error is what it is."""
    runner = runner or runtime(model_path)
    inputs = golden_observations(loaded, prompts, n)
    actions = np.stack([runner.act(x.observation, noise=x.noise) for x in inputs])
    reference = np.stack([loaded.family.act(loaded, dict(x.observation), x.noise) for x in inputs])
    reference_rms = float(np.sqrt(np.mean(np.square(reference, dtype=np.float64))))
    error = actions.astype(np.float64) - reference
    if not np.isfinite(error).all():
        raise ParityError(f"{model_path} answers with NaN or infinity")
    return ParityReport(
        max_abs=float(np.abs(error).max()) / reference_rms,
        rms=float(np.sqrt(np.mean(error**2))) / reference_rms,
        worst_rms=float(np.sqrt(np.mean(error**2, axis=(1, 2))).max()) / reference_rms,
        reference_rms=reference_rms,
        threshold=threshold,
        executor=type(runner).__name__,
        golden=[
            {
                "seed": x.seed,
                "prompt": x.prompt,
                "masked_cameras": list(x.masked_cameras),
                "actions": a.tolist(),
                "actions_reference": r.tolist(),
            }
            for x, a, r in zip(inputs, actions, reference, strict=True)
        ],
    )


def runtime(model_path: str | Path) -> Runner:
    """The native runtime on a file. Raises ParityError if it is not installed."""
    try:
        import actquant_runtime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ParityError(f"actquant_runtime is not installed: {error}") from error
    return actquant_runtime.Runtime(str(model_path))


class ReferenceRunner:
    """A file, or captured stages, run by the interpreter: the format's meaning in 100 lines."""

    def __init__(self, interface: PolicyInterface, stages: Mapping[str, Graph]) -> None:
        self.interface = interface
        self.stages = stages
        self.tokenizer = tokenizers.Tokenizer.from_str(interface.tokenizer_json)

    @classmethod
    def from_file(cls, path: str | Path) -> ReferenceRunner:
        model = read_model(path)
        stages = {stage: model.graph(stage) for stage in model.programs}
        return cls(model.metadata.interface, stages)

    def act(self, observation: Mapping[str, Any], *, noise: np.ndarray) -> np.ndarray:
        """As `actquant_runtime.Runtime.act`."""
        face = self.interface
        inputs = {**self._images(observation), **self._prompt(str(observation["task"]))}
        mean, std = torch.tensor(face.state_mean), torch.tensor(face.state_std)
        state = torch.from_numpy(np.asarray(observation["observation.state"], np.float32))
        state = (state - mean) / (std + face.normalization_eps)
        inputs["state"] = F.pad(state, (0, face.state_padded_dim - len(state)))[None]
        prefix = interpret(self.stages["prefix"], inputs)
        x = torch.from_numpy(np.asarray(noise, np.float32))[None]
        for step in range(face.num_steps):
            step_inputs = {
                **prefix,
                "x_t": x,
                "timestep": torch.tensor([1.0 - step / face.num_steps]),
            }
            x = x - interpret(self.stages["denoise"], step_inputs)["velocity"] / face.num_steps
        action = x[0, :, : len(face.action_mean)]
        return (action * torch.tensor(face.action_std) + torch.tensor(face.action_mean)).numpy()

    def _images(self, observation: Mapping[str, Any]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        wanted = next(
            n.shape for n in self.stages["prefix"].inputs if n.name == "image_embedding_0"
        )
        for index, camera in enumerate(self.interface.cameras):
            present = camera in observation
            embedding = torch.zeros(wanted)
            if present:
                image = self._preprocess(observation[camera])
                embedding = interpret(self.stages["vision"], {"image": image})["embedding"]
            values[f"image_embedding_{index}"] = embedding
            values[f"image_mask_{index}"] = torch.tensor([present])
        return values

    def _preprocess(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] -> [1, 3, height, width]; smaller images are padded left and top."""
        face = self.interface
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        height, width = pixels.shape[2:]
        if (height, width) != (face.image_height, face.image_width):
            if face.image_resize == "none":
                raise ParityError(f"the image is {height}×{width}, the policy takes no such size")
            ratio = max(width / face.image_width, height / face.image_height)
            size = (int(height / ratio), int(width / ratio))
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
            pixels = F.pad(pixels, (face.image_width - size[1], 0, face.image_height - size[0], 0))
        return pixels * face.image_scale + face.image_offset

    def _prompt(self, task: str) -> dict[str, Tensor]:
        face = self.interface
        if not task.endswith(face.tokenizer_suffix):
            task += face.tokenizer_suffix
        ids = self.tokenizer.encode(task).ids[: face.tokenizer_max_length]
        tokens = torch.full((1, face.tokenizer_max_length), face.tokenizer_pad_id)
        tokens[0, : len(ids)] = torch.tensor(ids)
        mask = torch.arange(face.tokenizer_max_length)[None] < len(ids)
        return {"tokens": tokens, "token_mask": mask}
