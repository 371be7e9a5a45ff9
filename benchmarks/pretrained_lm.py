"""Do the recipes hold on real pretrained weights? SmolLM2-135M-Instruct, the family of SmolVLA's
backbone, by every recipe at equal stored bits: perplexity, and KL divergence from the model itself.

    python benchmarks/pretrained_lm.py --bpw 2.5,3 --out lm.json

The package holds a GGUF of 4 bits; its dequantized weights are the reference. What is to a policy
its action chunk is here 2 sqrt(p), p the probabilities of all tokens at all positions: distances of
these are to second order twice the KL divergence, so that the action Jacobian becomes the Fisher
information. Texts are Python's own manual (`pydoc_data.topics`): half of the topics calibrate, the
other half evaluates. Matrices of the blocks are compressed, the table of tokens, which is the
output layer too, has Q8_0 under every recipe and does not count.

`--recipes untuned,untuned-plain-moments` are `actquant` without tuning, and that with second
moments in which every token counts the same; `ablation.MOMENTS` are all such variants.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actquant.allocation.budget import Allocation, Budget, TensorSize
from actquant.calibration.dataset import ACTION
from actquant.calibration.frames import Batch, Frame
from actquant.calibration.statistics import Statistics, collect
from actquant.calibration.work_folder import WorkFolder
from actquant.common.errors import BudgetError
from actquant.common.files import hash_json, write_text
from actquant.format.encoding import EncodedTensor
from actquant.policies.base import LoadedPolicy, PolicyFamily, QuantizableTensor
from actquant.recipes import Recipe, find_recipe
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.block_scales import scale_blocks
from actquant.tuning.settings import TuningSettings
from actquant.tuning.tune import Tuning

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "exports" / "reference"))
from ablation import MOMENTS, UNTUNED  # noqa: E402  beside this file
from smollm2 import find_model, load_model, load_tokenizer  # noqa: E402  no package

VALIDATION = 32
"""Windows that judge the tuning."""


VARIANTS = {variant.name: variant for variant in (UNTUNED, *MOMENTS)}
"""Of the recipe, which `--recipes` knows beside all recipes."""


class LanguageModel(PolicyFamily):
    """A causal language model in the place of a policy."""

    policy_type = "language_model"

    def load(self, folder: Path, **_: Any) -> LoadedPolicy:
        raise NotImplementedError

    def stages(self, loaded: LoadedPolicy, prompt_length: int) -> Any:
        raise NotImplementedError

    def batch(self, loaded: LoadedPolicy, observations: Sequence[Any]) -> dict[str, Any]:
        raise NotImplementedError

    def action_loss(
        self, loaded: LoadedPolicy, batch: dict[str, Tensor], noise: Tensor, time: Tensor
    ) -> Tensor:
        """Returns the mean negative log likelihood of each text [B]."""
        return next_token_losses(loaded.policy, batch["tokens"]).mean(dim=1)

    def predict_chunk(self, loaded: LoadedPolicy, batch: dict[str, Any], noise: Tensor) -> Tensor:
        """Returns 2 sqrt(p): [B, tokens, vocabulary]."""
        logits = loaded.policy(input_ids=batch["tokens"]).logits
        return 2 * torch.exp(0.5 * logits.log_softmax(dim=-1))


def next_token_losses(model: Any, tokens: Tensor) -> Tensor:
    """Returns the negative log likelihood of every token but the first: [B, T] -> [B, T - 1]."""
    logits = model(input_ids=tokens[:, :-1]).logits
    return nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


@dataclass(frozen=True)
class Texts:
    """Windows of tokens [n, T], as frames of a dataset; targets [n, 1, D]: what follows, averaged
    (the `Y` of HSIC)."""

    tokens: Tensor
    targets: Tensor
    first: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, position: int) -> int:
        return position

    def groups(self, size: int) -> list[list[int]]:
        places = list(range(len(self)))
        return [places[begin : begin + size] for begin in range(0, len(places), size)]

    def batch(self, positions: Sequence[int]) -> Batch:
        chosen = list(positions)
        frames = tuple(Frame(0, self.first + p, self.first + p) for p in chosen)
        return Batch(frames, {"tokens": self.tokens[chosen], ACTION: self.targets[chosen]})

    def batches(self, size: int) -> Iterator[Batch]:
        for group in self.groups(size):
            yield self.batch(group)


def make_texts(tokenizer: Any, model: Any, window: int, odd: bool) -> Texts:
    """Returns Python's manual in windows; odd: of which half of the topics (by a hash of names)."""
    from pydoc_data.topics import topics

    chosen = [
        text
        for name, text in sorted(topics.items())
        if hashlib.sha256(name.encode()).digest()[0] % 2 == odd
    ]
    ids = tokenizer("\n\n".join(chosen))["input_ids"]
    count = len(ids) // window
    tokens = torch.tensor(ids[: count * window]).reshape(count, window)
    order = torch.from_numpy(np.random.default_rng(0).permutation(count))
    tokens = tokens[order]
    with torch.no_grad():
        targets = model.get_input_embeddings()(tokens).mean(dim=1, keepdim=True)
    return Texts(tokens, targets)


def some(texts: Texts, begin: int, count: int) -> Texts:
    """Returns `count` windows from `begin` on."""
    part = slice(begin, begin + count)
    return Texts(texts.tokens[part], texts.targets[part], begin)


def matrices(model: nn.Module) -> list[QuantizableTensor]:
    """Returns the linear layers of all blocks, in forward order."""
    return [
        QuantizableTensor(
            f"{path}.weight",
            path,
            f"language.{path.split('.')[2]}",
            "language",
            tuple(module.weight.shape),  # pyright: ignore[reportArgumentType]
        )
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in path
    ]


@dataclass
class Trial:
    """One recipe at one budget on one model."""

    loaded: LoadedPolicy
    tensors: Sequence[QuantizableTensor]
    calibration: Texts
    tuning: tuple[Texts, Texts]
    work: WorkFolder
    made_from: dict[str, str]
    settings: CompressionSettings

    def weight(self, name: str) -> np.ndarray:
        return self.loaded.policy.get_parameter(name).detach().numpy()

    def run(self, recipe: Recipe, bpw: float) -> tuple[Allocation, dict[str, Tensor]]:
        """Returns the types, and every parameter that the recipe changes."""
        sizes = [TensorSize(t.name, *t.shape, t.layer) for t in self.tensors]
        budget = Budget(bpw, sum(t.rows * t.columns for t in sizes), 0)
        allocation = recipe.allocate(sizes, budget)
        statistics = self._statistics(recipe)
        if recipe.scores is not None and statistics is not None:
            scores = recipe.scores(self.tensors, statistics, self.settings)
            sizes = [replace(size, score=scores[size.name]) for size in sizes]
        if recipe.errors is not None and statistics is not None:
            sizes = [replace(s, errors=self._errors(recipe, s, statistics)) for s in sizes]
        allocation = recipe.allocate(sizes, budget)
        encodings = {
            name: recipe.encode(name, self.weight(name), type_name, statistics).tensor
            for name, type_name in allocation.types.items()
        }
        values: dict[str, np.ndarray] = {}
        if recipe.tuned:
            encodings, values = self._tuned(encodings, allocation)
        changed = {name: decode(encoded) for name, encoded in encodings.items()}
        return allocation, changed | {k: torch.from_numpy(v) for k, v in values.items()}

    def _statistics(self, recipe: Recipe) -> Statistics | None:
        if not recipe.needs_dataset:
            return None
        return collect(
            self.loaded,
            self.tensors,
            self.calibration,  # pyright: ignore[reportArgumentType]  what frames do, texts do
            recipe.matrices,
            self.work,
            self.made_from,
            draws=1,
            batch_size=2,
        )

    def _errors(self, recipe: Recipe, size: TensorSize, statistics: Statistics) -> dict[str, Any]:
        assert recipe.errors is not None
        made = recipe.errors

        def measure() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            return {}, dict(made(size, self.weight(size.name), statistics))

        stage = f"type-errors-{recipe.name}"
        return self.work.build(stage, size.name, self.made_from, measure)[0].info

    def _tuned(
        self, encodings: dict[str, EncodedTensor], allocation: Allocation
    ) -> tuple[dict[str, EncodedTensor], dict[str, np.ndarray]]:
        free = [n for n, p in self.loaded.policy.named_parameters() if p.ndim == 1]
        training, validation = self.tuning
        found = Tuning(
            loaded=self.loaded,
            tensors=self.tensors,
            encodings=encodings,
            fixed={},
            free=free,
            training=training,  # pyright: ignore[reportArgumentType]
            validation=validation,  # pyright: ignore[reportArgumentType]
            settings=self.settings.tuning,
            seed=0,
            work=self.work,
            made_from=self.made_from,
            encoded_from=hash_json(allocation.types),
        ).run()
        print("  tuning:", found.report, flush=True)
        return {
            name: scale_blocks(encoded, found.factors[name]) if found.factors else encoded
            for name, encoded in encodings.items()
        }, found.values


def decode(encoded: EncodedTensor) -> Tensor:
    import actquant_runtime

    return torch.from_numpy(
        actquant_runtime.dequantize(encoded.data, encoded.type, encoded.shape[1])
    )


@torch.no_grad()
def evaluate(model: Any, texts: Texts, changed: dict[str, Tensor]) -> dict[str, float]:
    """Returns perplexity, and the KL divergence from the unchanged model, with standard errors over
    windows."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].data for name in changed}
    losses, divergences = [], []
    for batch in texts.batches(4):
        tokens = batch.tensors["tokens"]
        reference = model(input_ids=tokens[:, :-1]).logits.log_softmax(dim=-1)
        for name, value in changed.items():
            parameters[name].data = value
        logits = model(input_ids=tokens[:, :-1]).logits.log_softmax(dim=-1)
        for name, value in before.items():
            parameters[name].data = value
        chosen = logits.gather(2, tokens[:, 1:, None])[..., 0]
        losses += (-chosen).mean(dim=1).tolist()
        divergence = (reference.exp() * (reference - logits)).sum(dim=2)
        divergences += divergence.mean(dim=1).tolist()
    count = np.sqrt(len(losses))
    mean = float(np.mean(losses))
    return {
        "perplexity": float(np.exp(mean)),
        "perplexity_standard_error": float(np.exp(mean) * np.std(losses, ddof=1) / count),
        "kl": float(np.mean(divergences)),
        "kl_standard_error": float(np.std(divergences, ddof=1) / count),
        "tokens": int(texts.tokens[:, 1:].numel()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bpw", default="2.5,3", help="stored bits per weight of the blocks")
    parser.add_argument("--recipes", default="rtn,imatrix,gptq,paper,actquant")
    parser.add_argument("--windows", type=int, default=160, help="of calibration, and evaluation")
    parser.add_argument("--window", type=int, default=128, help="tokens")
    parser.add_argument("--tune-minutes", type=float, default=10.0)
    parser.add_argument("--work", type=Path, default=Path("pretrained-lm-work"))
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    arguments = parser.parse_args()
    path, tokenizer, model = find_model(), load_tokenizer(), load_model()
    calibration, held_out = (
        make_texts(tokenizer, model, arguments.window, odd) for odd in (False, True)
    )
    count, training = arguments.windows, len(calibration) - VALIDATION
    evaluated = some(held_out, 0, count)
    settings = CompressionSettings(
        # 60 steps of 4 windows: their 2 sqrt(p) are 6 GB, and as many again while they are saved.
        tuning=TuningSettings(minutes=arguments.tune_minutes, batch_size=4, at_once=2)
    )
    interface: Any = SimpleNamespace(noise_shape=(1,))
    trial = Trial(
        loaded=LoadedPolicy(LanguageModel(), model, None, None, None, path.parent, "", interface),
        tensors=matrices(model),
        calibration=some(calibration, 0, count),
        tuning=(some(calibration, 0, training), some(calibration, training, VALIDATION)),
        work=WorkFolder(arguments.work),
        made_from={"windows": f"{count} of {arguments.window}"},
        settings=settings,
    )
    rows = [{"recipe": "reference", "bpw": None, **evaluate(model, evaluated, {})}]
    print(rows[0], flush=True)
    for bpw in map(float, arguments.bpw.split(",")):
        for name in arguments.recipes.split(","):
            start = time.perf_counter()
            row: dict[str, Any] = {"recipe": name, "bpw": bpw}
            try:
                allocation, changed = trial.run(VARIANTS.get(name) or find_recipe(name), bpw)
            except BudgetError as error:
                row["refused"] = str(error)
            else:
                row |= {"stored_bpw": allocation.quantized_bpw, "types": allocation.types}
                row |= evaluate(model, evaluated, changed)
            row["seconds"] = time.perf_counter() - start
            rows.append(row)
            print({k: v for k, v in row.items() if k != "types"}, flush=True)
            write_text(arguments.out, json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
