"""Methods to try on top of the recipe `actquant`, and what they change of the action error.

    python benchmarks/trials.py --bpw 2.5 --out trials

The reference policy is compressed without tuning. Its matrices are then encoded anew, in the same
types, by each method under trial, and PyTorch runs the policy with the decoded weights; what may be
tuned as well is a recipe of its own, and the native runtime runs its file (what a run before has
found in the folder is kept):

- forward: layers in forward order, second moments of the inputs that the layers before them give
  once they are quantized;
- forward-fitted: the same, and each weight first fitted to the outputs for the f32 policy's inputs;
- grouped: guided second moments for each of four groups of rows (GuidedQuant, arXiv:2505.07004), by
  the gradients of these rows alone; grouped-tuned: and tuned, beside tuned: the whole recipe;
- mean-shift: biases take up the mean of what the outputs lost;
- rotated: the residual streams of language model and expert in a random Hadamard basis (QuaRot,
  arXiv:2404.00456), folded into the weights; types are chosen anew;
- low-rank: the next smaller type and, for the bytes it saves, singular vectors of what is lost in
  Q8_0; how many matrices would choose it, by their predicted action error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import actquant_runtime
import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from actquant.allocation.budget import TensorSize
from actquant.allocation.measured import types_of
from actquant.calibration.accumulators import ACCUMULATORS, ACTIONS, Accumulator, Arrays
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import Batch, CalibrationData, calibrate
from actquant.calibration.hooks import rows_in
from actquant.calibration.losses import action_projections
from actquant.calibration.statistics import Statistics, collect
from actquant.calibration.work_folder import WorkFolder
from actquant.capture.policy import quantizable
from actquant.compression.pipeline import compress
from actquant.compression.report import CompressionReport
from actquant.encoders.blocks import Encoded
from actquant.encoders.feedback import DAMPING, action_error, encode_with_feedback
from actquant.fidelity.action_error import ActionError, measure_action_error, reference_chunks
from actquant.format.encoding import EncodedTensor
from actquant.format.tensor_types import tensor_bytes
from actquant.policies import LoadedPolicy, QuantizableTensor
from actquant.recipes import RECIPES, Recipe
from actquant.recipes.actquant import ACTQUANT, curvature
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.settings import TuningSettings

REFERENCE = Path(__file__).resolve().parents[1] / "exports" / "reference"
UNTUNED = replace(ACTQUANT, name="untuned", tuned=False)
ROW_GROUPS = 4
LOW_RANK_BITS = 8.5
Weights = dict[str, np.ndarray]
"""Decoded matrices [rows, columns], and biases, by parameter."""


class GroupedMoments(Accumulator):
    """Mean over samples of sum s x x' over tokens, s the mean square of the gradient of the outputs
    of a group of rows: [ROW_GROUPS, columns, columns]."""

    name = "grouped_moments"
    needs_gradients = True
    needs_draws = True
    objective = ACTIONS

    def __init__(self, tensor: str, rows: int, columns: int) -> None:
        super().__init__(tensor, rows, columns)
        self._sum = torch.zeros(ROW_GROUPS, columns, columns, dtype=torch.float64)

    @classmethod
    def state_bytes(cls, rows: int, columns: int, frames: int) -> int:
        return 8 * ROW_GROUPS * columns * columns

    def forward(self, x: Tensor, z: Tensor, frames: int) -> None:
        """Does nothing: all is known with the gradients."""

    def backward(self, x: Tensor, dz: Tensor) -> None:
        tokens = x.reshape(-1, x.shape[-1]).double()
        squares = dz.reshape(-1, dz.shape[-1]).double().square()
        for total, group in zip(self._sum, squares.tensor_split(ROW_GROUPS, dim=1), strict=True):
            total.addmm_((tokens * group.mean(dim=1, keepdim=True)).T, tokens)

    def end_batch(self) -> None:
        """Does nothing: every call was added when it came."""

    def state(self) -> Arrays:
        return {"sum": self._sum.numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._sum = torch.from_numpy(arrays["sum"].copy())

    def result(self, samples: int) -> Arrays:
        return self._finite({"moments": (self._sum / samples).numpy()}, "gradients")


@dataclass
class Trials:
    """One policy, its frames, and the types of its matrices in the file of the recipe."""

    loaded: LoadedPolicy
    data: CalibrationData
    types: Mapping[str, str]
    work: WorkFolder

    @cached_property
    def tensors(self) -> list[QuantizableTensor]:
        return quantizable(self.loaded, ACTQUANT.matrices)

    @cached_property
    def linear(self) -> list[QuantizableTensor]:
        """Those that the methods under trial encode; all others stay as the recipe has them."""
        return [tensor for tensor in self.tensors if tensor.kind == "linear"]

    @cached_property
    def statistics(self) -> Statistics:
        return self._collect(self.tensors, ACTQUANT.matrices)

    def _collect(self, tensors: Sequence[QuantizableTensor], kinds: Any) -> Statistics:
        made_from = {"frames": self.data.calibration.fingerprint}
        return collect(self.loaded, tensors, self.data.calibration, kinds, self.work, made_from)

    def weight(self, name: str) -> np.ndarray:
        found = self.loaded.policy.get_parameter(name).detach().numpy()
        return found.reshape(len(found), -1)

    def encode(self, name: str, weight: np.ndarray, moments: Sequence[np.ndarray]) -> np.ndarray:
        """Returns a weight [rows, columns] as its type holds it, with feedback by these moments."""
        no_jacobian = np.zeros_like(weight)
        encoded = encode_with_feedback(name, weight, self.types[name], moments, no_jacobian).tensor
        return actquant_runtime.dequantize(encoded.data, encoded.type, weight.shape[1])

    @cached_property
    def recipe(self) -> Weights:
        """The matrices as the recipe encodes them."""
        found = {}
        for tensor in self.tensors:
            moments = curvature(tensor.name, self.statistics).moments
            found[tensor.name] = self.encode(tensor.name, self.weight(tensor.name), moments)
        return found

    @contextmanager
    def replaced(self, weights: Weights) -> Iterator[None]:
        """Gives the policy these weights."""
        parameters = {name: self.loaded.policy.get_parameter(name) for name in weights}
        before = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = torch.from_numpy(weights[name]).reshape(parameter.shape)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = before[name]

    @cached_property
    def _chunks(self) -> np.ndarray:
        frames = self.data.held_out
        return reference_chunks(self.loaded, [frames[i] for i in range(len(frames))], seed=0)

    def error(self, weights: Weights) -> ActionError:
        """Returns the action error on the held-out frames with these weights."""
        chunks, family = self._chunks, self.loaded.family

        def act(observation: Any, noise: np.ndarray) -> np.ndarray:
            return family.predict(self.loaded, [observation], torch.from_numpy(noise)[None])[0]

        with self.replaced(weights):
            return measure_action_error(act, self.loaded, self.data.held_out, reference=chunks)

    def forward_order(self, *, fitted: bool) -> Weights:
        """Encodes layer after layer by the inputs that those before it give once quantized.

        fitted: W becomes W C H^-1 first, C = mean of x y', H = mean of y y', x the inputs of the
        f32 policy and y those of the quantized one: the least squares fit of W x.
        """
        found = {name: self.recipe[name] for name in self.types}
        done = {name: value for name, value in found.items() if name not in self._linear_names}
        for layer in dict.fromkeys(tensor.layer for tensor in self.linear):
            members = [tensor for tensor in self.linear if tensor.layer == layer]
            moments, products = self._paired_moments(members, done)
            for tensor in members:
                weight, own = self.weight(tensor.name), moments[tensor.name]
                if fitted:
                    damping = DAMPING * np.trace(own) / len(own) * np.eye(len(own))
                    target = weight @ (products[tensor.name] + damping)
                    weight = np.linalg.solve(own + damping, target.T).T.astype(np.float32)
                done[tensor.name] = self.encode(tensor.name, weight, [own])
        return done

    @cached_property
    def _linear_names(self) -> set[str]:
        return {tensor.name for tensor in self.linear}

    def _paired_moments(
        self, members: Sequence[QuantizableTensor], done: Weights
    ) -> tuple[Weights, Weights]:
        """Returns H and C of `forward_order` for some matrices: [columns, columns] each."""
        sizes = {tensor.name: tensor.shape[1] for tensor in members}
        moments = {name: np.zeros((size, size)) for name, size in sizes.items()}
        products = {name: np.zeros((size, size)) for name, size in sizes.items()}
        for batch in self.data.calibration.batches(16):
            exact = self.inputs(members, batch)
            with self.replaced(done):
                seen = self.inputs(members, batch)
            for name, rows in seen.items():
                moments[name] += (rows.T @ rows).numpy()
                products[name] += (exact[name].T @ rows).numpy()
        return moments, products

    def inputs(self, members: Sequence[QuantizableTensor], batch: Batch) -> dict[str, Tensor]:
        """Returns the inputs [tokens, columns] of matrices while the policy acts on a batch."""
        seen: dict[str, list[Tensor]] = {tensor.name: [] for tensor in members}
        handles = []
        for tensor in members:

            def keep(module: nn.Module, inputs: Any, _: Any, name: str = tensor.name) -> None:
                rows = rows_in(module, inputs[0].detach())
                seen[name].append(rows.reshape(-1, rows.shape[-1]).double())

            module = self.loaded.policy.get_submodule(tensor.module)
            handles.append(module.register_forward_hook(keep))
        with torch.no_grad():
            action_projections(self.loaded, batch, seed=0)
        for handle in handles:
            handle.remove()
        return {name: torch.cat(parts) for name, parts in seen.items()}

    def mean_shift(self) -> Weights:
        """Adds to each bias the mean of (W - W') x."""
        biased = [
            tensor
            for tensor in self.linear
            if self.loaded.policy.get_submodule(tensor.module).bias is not None
        ]
        sums: dict[str, Any] = {}
        tokens: dict[str, int] = {}
        for batch in self.data.calibration.batches(16):
            for name, rows in self.inputs(biased, batch).items():
                sums[name] = sums.get(name, 0.0) + rows.sum(dim=0).numpy()
                tokens[name] = tokens.get(name, 0) + len(rows)
        found = dict(self.recipe)
        for tensor in biased:
            lost = self.weight(tensor.name).astype(np.float64) - self.recipe[tensor.name]
            bias = tensor.module + ".bias"
            value = self.loaded.policy.get_parameter(bias).detach().numpy()
            shift = lost @ (sums[tensor.name] / tokens[tensor.name])
            found[bias] = (value + shift).astype(np.float32)
        return found

    def low_rank(self) -> dict[str, Any]:
        """Returns how many matrices would lose less by the next smaller type and singular vectors
        for the rest of the bytes, and what share of the predicted error that would take off."""
        gains, total, tried = [], 0.0, 0
        for tensor in self.linear:
            found = curvature(tensor.name, self.statistics)
            rows = slice(None) if found.rows is None else found.rows
            weight = self.weight(tensor.name)
            error = action_error(weight[rows], self.recipe[tensor.name][rows], found.jacobian)
            total += error
            ladder = [entry.name for entry in types_of(TensorSize(tensor.name, *tensor.shape, ""))]
            place = ladder.index(self.types[tensor.name])
            if not place:
                continue
            smaller = ladder[place - 1]
            larger_bytes, bytes_ = (
                tensor_bytes(*tensor.shape, t) for t in (ladder[place], smaller)
            )
            rank = int(8 * (larger_bytes - bytes_) / (LOW_RANK_BITS * sum(tensor.shape)))
            if not rank:
                continue
            tried += 1
            with mock.patch.object(self, "types", {tensor.name: smaller}):
                decoded = self.encode(tensor.name, weight, found.moments)
            decoded = decoded + self._correction(weight - decoded, found.moments, rank)
            gains.append(error - action_error(weight[rows], decoded[rows], found.jacobian))
        won = [gain for gain in gains if gain > 0]
        return {"matrices": tried, "better": len(won), "share": sum(won) / total if total else 0.0}

    @staticmethod
    def _correction(lost: np.ndarray, moments: Sequence[np.ndarray], rank: int) -> np.ndarray:
        """Returns the matrix of this rank whose outputs are nearest to those of `lost` (QERA,
        arXiv:2410.06040): S = H^(1/2), the best approximation of lost S, times S^-1."""
        (own,) = moments
        values, vectors = np.linalg.eigh(
            own + DAMPING * np.trace(own) / len(own) * np.eye(len(own))
        )
        root = (vectors * np.sqrt(values)) @ vectors.T
        left, singular, right = np.linalg.svd(lost @ root, full_matrices=False)
        near = (left[:, :rank] * singular[:rank]) @ right[:rank]
        return np.linalg.solve(root, near.T).T.astype(np.float32)


def rotate(policy: Any) -> None:
    """Turns the residual streams of a SmolVLA's language model and expert into a random Hadamard
    basis; the weights of the norms go into the layers that read them."""
    model = policy.model
    joint = model.vlm_with_expert
    text = joint.get_vlm_model().text_model
    with torch.no_grad():
        basis = _random_hadamard(text.embed_tokens.weight.shape[1], seed=0)
        text.embed_tokens.weight.copy_(text.embed_tokens.weight @ basis)
        _rotate_rows(joint.get_vlm_model().connector.modality_projection.proj, basis)
        _rotate_rows(model.state_proj, basis)
        for layer in text.layers:
            _rotate_block(layer, basis)
        expert = joint.lm_expert
        basis = _random_hadamard(model.action_time_mlp_out.weight.shape[0], seed=1)
        _rotate_rows(model.action_time_mlp_out, basis)
        for layer in expert.layers:
            _rotate_block(layer, basis)
        _rotate_columns(expert.norm, [model.action_out_proj], basis)


def _random_hadamard(size: int, seed: int) -> Tensor:
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size)
    return torch.from_numpy((hadamard(size) * signs / np.sqrt(size)).astype(np.float32))


def _rotate_block(layer: Any, basis: Tensor) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    # In a layer of cross-attention, keys and values are made of the language model's.
    readers = [attention.q_proj, attention.k_proj, attention.v_proj]
    readers = [each for each in readers if each.weight.shape[1] == len(basis)]
    _rotate_columns(layer.input_layernorm, readers, basis)
    _rotate_rows(attention.o_proj, basis)
    _rotate_columns(layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj], basis)
    _rotate_rows(mlp.down_proj, basis)


def _rotate_rows(layer: Any, basis: Tensor) -> None:
    layer.weight.copy_(basis.T @ layer.weight)
    if layer.bias is not None:
        layer.bias.copy_(layer.bias @ basis)


def _rotate_columns(norm: Any, layers: Sequence[Any], basis: Tensor) -> None:
    for layer in layers:
        layer.weight.copy_((layer.weight * norm.weight) @ basis)
    norm.weight.fill_(1.0)


def load(held_out: int) -> tuple[LoadedPolicy, CalibrationData]:
    """Loads the reference policy with its frames."""
    dataset = REFERENCE / "calibration"
    loaded = load_for_dataset(REFERENCE / "checkpoint", dataset, streamed=None)
    return loaded, calibrate(loaded, dataset, n_held_out=held_out)


def encode_grouped(
    name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None
) -> Encoded:
    """Encodes each group of rows by its own guided second moments, what is no linear layer as the
    recipe does."""
    assert statistics is not None
    if not statistics.holds(name, GroupedMoments.name):
        return ACTQUANT.encode(name, weight, type_name, statistics)
    moments = statistics.of(name, GroupedMoments.name)["moments"]
    jacobian = curvature(name, statistics).jacobian
    groups = zip(
        np.array_split(weight, ROW_GROUPS),
        moments,
        np.array_split(jacobian, ROW_GROUPS),
        strict=True,
    )
    parts = [
        encode_with_feedback(name, group, type_name, [own], part).tensor.data
        for group, own, part in groups
        if len(group)
    ]
    tensor = EncodedTensor(type_name, np.concatenate(parts), weight.shape)
    decoded = actquant_runtime.dequantize(tensor.data, type_name, weight.shape[1])
    lost, whole = (action_error(weight, w, jacobian) for w in (decoded, np.zeros_like(weight)))
    return Encoded(tensor, lost / whole if whole else 0.0, guided=bool(jacobian.any()))


GROUPED = replace(
    ACTQUANT,
    name="grouped-tuned",
    matrices={
        **ACTQUANT.matrices,
        "linear": (*ACTQUANT.matrices["linear"], GroupedMoments.name),
    },
    encode=encode_grouped,
)


def make_file(
    loaded: LoadedPolicy, recipe: Recipe, bpw: float, out: Path, held_out: int
) -> CompressionReport:
    """Compresses a policy by a recipe of this file; its work lies in `out`."""
    with (
        mock.patch.dict(RECIPES, {recipe.name: recipe}),
        mock.patch.dict(ACCUMULATORS, {GroupedMoments.name: GroupedMoments}),
    ):
        return compress(
            loaded.folder,
            out / f"{recipe.name}-{bpw:g}.gguf",
            recipe=recipe.name,
            dataset=REFERENCE / "calibration",
            bpw=bpw,
            work=out / "work",
            settings=CompressionSettings(n_held_out=held_out, tuning=TuningSettings(minutes=60)),
            loaded=loaded,
        )


def types_in_file(loaded: LoadedPolicy, bpw: float, out: Path) -> dict[str, str]:
    """Returns the types that the recipe without tuning chooses, by tensor."""
    report = make_file(loaded, UNTUNED, bpw, out, held_out=8)
    return {tensor.name: tensor.type for tensor in report.tensors}


def rotated_error(bpw: float, held_out: int, out: Path) -> ActionError:
    """Returns the action error of the recipe without tuning on the rotated policy."""
    loaded, data = load(held_out)
    frames = [data.held_out[i] for i in range(8)]
    before = reference_chunks(loaded, frames, seed=0)
    rotate(loaded.policy)
    after = reference_chunks(loaded, frames, seed=0)
    if np.abs(after - before).max() > 1e-3 * np.abs(before).max():
        raise SystemExit("the rotated policy acts differently")
    types = types_in_file(loaded, bpw, out / "rotated")
    trials = Trials(loaded, data, types, WorkFolder(out / "rotated" / "statistics"))
    return trials.error(trials.recipe)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bpw", type=float, default=2.5)
    parser.add_argument("--held-out", type=int, default=256, help="frames of the action error")
    parser.add_argument("--only", help="methods, with a comma between them; all by default")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    loaded, data = load(arguments.held_out)
    types = types_in_file(loaded, arguments.bpw, arguments.out)
    trials = Trials(loaded, data, types, WorkFolder(arguments.out / "statistics"))

    def error_of(recipe: Recipe) -> ActionError:
        report = make_file(loaded, recipe, arguments.bpw, arguments.out, arguments.held_out)
        assert report.held_out is not None
        return report.held_out

    methods: dict[str, Callable[[], ActionError | dict[str, Any]]] = {
        "recipe": lambda: trials.error(trials.recipe),
        "forward": lambda: trials.error(trials.forward_order(fitted=False)),
        "forward-fitted": lambda: trials.error(trials.forward_order(fitted=True)),
        "grouped": lambda: error_of(replace(GROUPED, name="grouped", tuned=False)),
        "grouped-tuned": lambda: error_of(GROUPED),
        "tuned": lambda: error_of(replace(ACTQUANT, name="tuned")),
        "mean-shift": lambda: trials.error(trials.mean_shift()),
        "rotated": lambda: rotated_error(arguments.bpw, arguments.held_out, arguments.out),
        "low-rank": trials.low_rank,
    }
    path = arguments.out / f"trials-{arguments.bpw:g}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    chosen = methods if arguments.only is None else arguments.only.split(",")
    for name in chosen:
        if name in results:
            continue
        method = methods[name]
        begin = time.perf_counter()
        found = method()
        print(name, found, f"{time.perf_counter() - begin:.0f} s", flush=True)
        results[name] = found.model_dump() if isinstance(found, ActionError) else found
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
