"""The encoded tensors of one file, each made when it is needed and kept in the work folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from rich.progress import Progress

from actquant.allocation.budget import TensorSize
from actquant.calibration.statistics import Statistics
from actquant.calibration.work_folder import Contents, WorkFolder
from actquant.capture.input_scales import ScalableInput, scalable_inputs
from actquant.capture.policy import CapturedPolicy, Parameters
from actquant.common.files import hash_json
from actquant.common.processes import ALONE, Processes
from actquant.common.progress import bar
from actquant.compression.folding import Folding, fold
from actquant.encoders.blocks import Encoded
from actquant.format.encoding import DeferredEncoding, EncodedTensor, matrix_shape
from actquant.recipes import Recipe
from actquant.recipes.recipe import Errors, Layer, round_to_nearest
from actquant.tuning.block_scales import scale_blocks

FIXED_TYPE = "Q8_0"
"""Of embedding tables and patch convolutions: read once per inference, and every action hangs on
them, so no recipe gambles with them."""


@dataclass
class TensorEncoder:
    """Encodes the tensors of a policy by a recipe.

    work: where encodings are kept by tensor and type, or None to encode anew at every request;
    made_from: hashes of what they depend on; folding: of scales into the weights, before they are
    encoded; factors: of the blocks of tuned tensors (`scale_blocks`); processes: which share the
    work. errors, unguided: what was found so far of each tensor. all_kept: whether nothing had to
    be encoded.
    """

    recipe: Recipe
    params: Parameters
    statistics: Statistics | None
    work: WorkFolder | None
    made_from: Mapping[str, str]
    processes: Processes = ALONE
    folding: Folding = field(default_factory=Folding)
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    unguided: list[str] = field(default_factory=list)
    all_kept: bool = True

    def encoding(self, name: str, type_name: str) -> DeferredEncoding:
        """Returns a tensor in a type, encoded when it is written."""
        return DeferredEncoding(
            type_name, self._shape(name), lambda: self.encoded(name, type_name).data
        )

    def encoded(self, name: str, type_name: str) -> EncodedTensor:
        """Returns a tensor in a type, tuned if there are factors for it."""
        tensor = self._make(name, type_name).tensor
        return scale_blocks(tensor, self.factors[name]) if name in self.factors else tensor

    def fixed(self, name: str) -> DeferredEncoding:
        """Returns a matrix that the recipe chooses no type for, in FIXED_TYPE."""
        return DeferredEncoding(
            FIXED_TYPE, self._shape(name), lambda: self.fixed_encoded(name).data
        )

    def fixed_encoded(self, name: str) -> EncodedTensor:
        """Returns the same, encoded now."""
        return round_to_nearest(name, self._weight(name), FIXED_TYPE, None).tensor

    def scale_inputs(self, captured: CapturedPolicy, types: Mapping[str, str]) -> None:
        """Scales the inputs of layers by the recipe, and folds the scales into the weights."""
        scale, statistics, work = self.recipe.scale_inputs, self.statistics, self.work
        assert scale is not None, f"recipe {self.recipe.name} scales no inputs"
        assert work is not None and statistics is not None
        made_from = {**self.made_from, "types": hash_json(dict(types))}

        def scales(scaled: ScalableInput) -> np.ndarray:
            def make() -> Contents:
                layers = [Layer(n, self._weight(n), types[n]) for n in scaled.layers]
                return {"scales": scale(layers, statistics)}, {}

            stage = f"input-scales-{self.recipe.name}"
            return work.build(stage, scaled.layers[0], made_from, make)[0].arrays["scales"]

        self.folding = fold(captured, scalable_inputs(captured, types), scales)
        self.made_from = made_from

    def prepare(self, types: Mapping[str, str], progress: Progress | None) -> None:
        """Encodes all tensors into the work folder, so that their errors are known."""
        own = self.processes.share(list(types))
        with bar(progress, "quantize", len(own)) as advance:
            for name in own:
                self._make(name, types[name])
                advance(1)
        self.processes.wait()
        for name, type_name in types.items():
            if name not in self.errors:
                self._make(name, type_name)

    def measured(self, sizes: Sequence[TensorSize], progress: Progress | None) -> list[TensorSize]:
        """Returns the tensors with the errors that the recipe measures, kept in the work folder."""
        assert self.recipe.errors is not None, f"recipe {self.recipe.name} measures no errors"
        assert self.work is not None and self.statistics is not None
        own = self.processes.share(sizes)
        with bar(progress, "errors of types", len(own)) as advance:
            for size in own:
                self._errors(size)
                advance(1)
        self.processes.wait()
        measured = []
        for size in sizes:
            errors = self._errors(size)
            # The score says how much there is to lose.
            measured.append(replace(size, errors=errors, score=max(errors.values())))
        return measured

    def _errors(self, size: TensorSize) -> dict[str, float]:
        assert self.recipe.errors is not None
        assert self.work is not None and self.statistics is not None
        made = partial(self._measure, self.recipe.errors, size, self.statistics)
        stage = f"type-errors-{self.recipe.name}"
        return self.work.build(stage, size.name, self.made_from, made)[0].info

    def _measure(self, errors: Errors, size: TensorSize, statistics: Statistics) -> Contents:
        return {}, dict(errors(size, self._weight(size.name), statistics))

    def _shape(self, name: str) -> tuple[int, int]:
        return matrix_shape(self.params.shape(name))

    def _weight(self, name: str) -> np.ndarray:
        weight = self.params[name].detach().reshape(self._shape(name)).numpy()
        return self.folding.weight(name, weight)

    def _make(self, name: str, type_name: str) -> Encoded:
        if self.work is None:
            encoded = self.recipe.encode(name, self._weight(name), type_name, self.statistics)
        else:
            encoded = self._from(self.work, name, type_name)
        self.errors[name] = encoded.error
        if self.recipe.needs_dataset and not encoded.guided and name not in self.unguided:
            self.unguided.append(name)
        return encoded

    def _from(self, work: WorkFolder, name: str, type_name: str) -> Encoded:
        def make() -> Contents:
            found = self.recipe.encode(name, self._weight(name), type_name, self.statistics)
            return {"data": found.tensor.data}, {"error": found.error, "guided": found.guided}

        stage, item = f"encoded-{self.recipe.name}", f"{name}.{type_name}"
        stored, kept = work.build(stage, item, self.made_from, make)
        self.all_kept = self.all_kept and kept
        tensor = EncodedTensor(type_name, stored.arrays["data"], self._shape(name))
        return Encoded(tensor, float(stored.info["error"]), bool(stored.info["guided"]))
