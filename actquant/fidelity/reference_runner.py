"""A file, or captured stages, run by the interpreter: the format's meaning, in short."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actquant.common.errors import ParityError
from actquant.format.image_steps import apply_image_steps
from actquant.format.model_file import read_model
from actquant.format.schema import PolicyInterface, Sampler
from actquant.program.interpret import interpret
from actquant.program.ir import Graph
from actquant.program.size import at_length

TASK_STEPS: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "underscores_to_spaces": lambda task: task.replace("_", " "),
    "newlines_to_spaces": lambda task: task.replace("\n", " "),
}


class ReferenceRunner:
    """Answers like `actquant_runtime.Runtime`, slowly and in few lines.

    stages: name -> graph, as captured; or a function (name, prompt length) -> graph or None.
    """

    def __init__(
        self,
        interface: PolicyInterface,
        stages: Mapping[str, Graph] | Callable[[str, int], Graph | None],
    ) -> None:
        self.interface = interface
        self._stages = stages
        self._cached: dict[tuple[str, int], Graph | None] = {}
        text = interface.tokenizer_json
        self.tokenizer = None if text is None else tokenizers.Tokenizer.from_str(text)

    @classmethod
    def from_file(cls, path: str | Path) -> ReferenceRunner:
        model = read_model(path)
        tensors = {name: torch.from_numpy(model.load(name)) for name in model.tensors}

        def stage(name: str, length: int) -> Graph | None:
            return model.graph(name, length, tensors) if name in model.programs else None

        return cls(model.metadata.interface, stage)

    def act(self, observation: Mapping[str, Any], *, noise: np.ndarray) -> np.ndarray:
        """Answers as `actquant_runtime.Runtime.act` does."""
        face = self.interface
        state = self._state(observation)
        prompt, length = self._prompt(str(observation.get("task", "")), state)
        inputs = {**self._images(observation, length), **prompt, "state": state}
        prefix = self._run("prefix", length, inputs)
        if face.sampler is None:
            actions = prefix["actions"]
        else:
            x = torch.from_numpy(np.asarray(noise, np.float32)).reshape(
                -1, 1, face.noise_rows, face.noise_dim
            )
            sample = integrate(
                face.sampler,
                lambda x, k: self._run(
                    "denoise", length, {**prefix, "x_t": x, "step": torch.tensor([k])}
                )["output"],
                x,
            )
            decoded = self._graph("decode", length)
            actions = sample if decoded is None else interpret(decoded, {"x": sample})["actions"]
        action = actions[0, :, : len(face.action_mean)]
        return (action * torch.tensor(face.action_std) + torch.tensor(face.action_mean)).numpy()

    def _graph(self, name: str, length: int) -> Graph | None:
        key = (name, length)
        if key not in self._cached:
            if callable(self._stages):
                self._cached[key] = self._stages(name, length)
            else:
                graph = self._stages.get(name)
                self._cached[key] = None if graph is None else at_length(graph, length)
        return self._cached[key]

    def _run(self, name: str, length: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        graph = self._graph(name, length)
        if graph is None:
            raise ParityError(f"there is no stage {name}")
        return interpret(graph, inputs)

    def _state(self, observation: Mapping[str, Any]) -> Tensor:
        """Normalised and padded, [T, S]."""
        face = self.interface
        size = len(face.state_mean)
        if not size:
            return torch.zeros(face.observation_steps, face.state_padded_dim)
        mean, std = torch.tensor(face.state_mean), torch.tensor(face.state_std)
        state = torch.from_numpy(np.asarray(observation["observation.state"], np.float32))
        state = (state.reshape(face.observation_steps, size) - mean) / (
            std + face.normalization_eps
        )
        if face.state_clip is not None:
            state = state.clamp(-face.state_clip, face.state_clip)
        return F.pad(state, (0, face.state_padded_dim - size))

    def _images(self, observation: Mapping[str, Any], length: int) -> dict[str, Tensor]:
        face = self.interface
        prefix = self._graph("prefix", length)
        assert prefix is not None, "every policy has a prefix"
        shapes = {n.name: n.shape for n in prefix.inputs}
        values: dict[str, Tensor] = {}
        for step in range(face.observation_steps):
            for number, camera in enumerate(face.cameras):
                index = step * len(face.cameras) + number
                values[f"image_mask_{index}"] = torch.tensor([camera in observation])
                name = f"image_embedding_{index}"
                if camera in observation:
                    image = np.asarray(observation[camera])
                    image = image.reshape(-1, *image.shape[-3:])[step]
                    seen = self._run("vision", length, {"image": self._preprocess(image)})
                    values[name] = seen["embedding"]
                elif name in shapes:
                    values[name] = torch.zeros(shapes[name])
        return values

    def _preprocess(self, image: np.ndarray) -> Tensor:
        """uint8 [h, w, 3] -> [1, 3, height, width]. Raises ParityError for a wrong size."""
        face = self.interface
        pixels = apply_image_steps(image, face.image_steps)
        if pixels.shape[1:] != (face.image_height, face.image_width):
            raise ParityError(
                f"an image of {image.shape[0]} × {image.shape[1]} becomes {pixels.shape[1]} × "
                f"{pixels.shape[2]}; the policy takes {face.image_height} × {face.image_width}"
            )
        return pixels[None] / 255 * face.image_scale + face.image_offset

    def _prompt(self, task: str, state: Tensor) -> tuple[dict[str, Tensor], int]:
        """(tokens and their mask, number of tokens)"""
        face = self.interface
        if self.tokenizer is None:
            return {}, 0
        prompt = render_prompt(face, task, state[-1, : len(face.state_mean)].tolist())
        ids = self._encode(prompt, face.tokenizer_max_length)
        ending = list(face.tokenizer_suffix_ids)
        if ending and ids[-len(ending) :] != ending:
            ids = self._encode(prompt, face.tokenizer_max_length - len(ending)) + ending
        length = max(len(ids), face.tokenizer_min_length, 1)
        tokens = torch.full((1, length), face.tokenizer_pad_id)
        tokens[0, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        return {"tokens": tokens, "token_mask": torch.arange(length)[None] < len(ids)}, length

    def _encode(self, prompt: str, max_length: int) -> list[int]:
        """At most max_length tokens; those that the tokenizer adds to every prompt stay."""
        assert self.tokenizer is not None
        self.tokenizer.enable_truncation(max_length)
        return self.tokenizer.encode(prompt).ids


def render_prompt(face: PolicyInterface, task: str, state: Iterable[float]) -> str:
    """Returns the text that is tokenized. state: normalised, without padding."""
    for step in face.prompt_task_steps:
        task = TASK_STEPS[step](task)
    edges = np.linspace(-1, 1, face.prompt_state_bins + 1)[:-1]
    bins = (int((edges <= value).sum()) - 1 for value in state) if len(edges) else ()
    prompt = face.prompt_template.replace("{state}", " ".join(map(str, bins)))
    prompt = prompt.replace("{task}", task)
    return prompt if prompt.endswith(face.tokenizer_suffix) else prompt + face.tokenizer_suffix


def integrate(sampler: Sampler, denoise: Callable[[Tensor, int], Tensor], noise: Tensor) -> Tensor:
    """Runs the driver `sampling`: noise [1 + fresh, 1, R, N] -> sample [1, R, N] (docs/format.md).

    denoise: (sample, number of the step) -> the output of the stage `denoise`.
    """
    x, fresh = noise[0], iter(noise[1:])
    for k, (p, q, clip, u, v, w, s, z) in enumerate(sampler.coefficients):
        output = denoise(x, k)
        clean = p * x + q * output
        if clip:
            clean = clean.clamp(-clip, clip)
        x = u * clean + v * x + w * output + z * noise[0]
        if s:
            x = x + s * next(fresh)
    return x
