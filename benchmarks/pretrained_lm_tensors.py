"""Which matrices of a pretrained language model does a type destroy? SmolLM2-135M-Instruct by
ggml's encoder, one group of its matrices at a time.

    python benchmarks/pretrained_lm_tensors.py --type Q2_K --out tensors.json

Each kind of matrix alone in that type, all but each kind, and each block alone (`--block 11`: the
matrices of that block): KL divergence from the model itself and perplexity on Python's manual.
Beside each group stands what may explain it: the relative error of its weights, the same error
where it meets its inputs, and the largest input in root mean squares of all inputs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretrained_lm import (
    Texts,
    decode,
    evaluate,
    load_model,
    load_tokenizer,
    make_texts,
    matrices,
    some,
)
from rich.progress import track
from torch import Tensor, nn

from actquant.common.files import write_text
from actquant.encoders import blocks


@dataclass
class Group:
    """Matrices that are in the type while all others are as they were."""

    name: str
    tensors: Sequence[str]
    found: dict[str, Any] = field(default_factory=dict)


def kind(tensor: str) -> str:
    """Returns `down_proj` of `model.layers.3.mlp.down_proj.weight`."""
    return tensor.split(".")[-2]


def block(tensor: str) -> int:
    """Returns 3 of `model.layers.3.mlp.down_proj.weight`."""
    return int(tensor.split(".")[2])


def encode(weight: np.ndarray, type_name: str, importance: np.ndarray | None) -> Tensor:
    """Returns a matrix [rows, columns] as ggml's encoder makes it; importance: of each column."""
    if importance is None:
        encoded = blocks.encode("weight", weight, type_name)
    else:
        whole = np.tile(importance, (len(weight), 1))
        encoded = blocks.encode_with_importance("weight", weight, type_name, whole)
    return decode(encoded.tensor)


@torch.no_grad()
def mean_squares(model: Any, names: Iterable[str], texts: Texts) -> dict[str, Tensor]:
    """Returns the mean square of each input of each matrix [columns]: llama.cpp's importance."""
    sums: dict[str, Tensor] = {}
    handles = []
    for name in names:

        def add(_: nn.Module, inputs: Any, __: Any, name: str = name) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0.0) + rows.square().mean(dim=0)

        handles.append(model.get_submodule(name.removesuffix(".weight")).register_forward_hook(add))
    batches = list(texts.batches(4))
    for batch in batches:
        model(input_ids=batch.tensors["tokens"])
    for handle in handles:
        handle.remove()
    return {name: total / len(batches) for name, total in sums.items()}


def relative_errors(weight: Tensor, coded: Tensor, inputs: Tensor) -> dict[str, float]:
    """Returns the rms error of the weights and of the outputs (inputs taken as uncorrelated), each
    as a fraction of what it is an error of, and the largest input by the rms of all."""
    lost = (weight - coded).double().square()
    kept = weight.double().square()
    return {
        "weights": float((lost.sum() / kept.sum()).sqrt()),
        "outputs": float(((lost @ inputs).sum() / (kept @ inputs).sum()).sqrt()),
        "largest_input": float((inputs.max() / inputs.mean()).sqrt()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", default="Q2_K")
    parser.add_argument("--importance", action="store_true", help="mean squares of the inputs")
    parser.add_argument("--block", type=int, help="measure this block's matrices alone")
    parser.add_argument("--windows", type=int, default=40, help="of 128 tokens, to evaluate")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    arguments = parser.parse_args()
    tokenizer, model = load_tokenizer(), load_model()
    calibration, held_out = (make_texts(tokenizer, model, 128, odd) for odd in (False, True))
    texts = some(held_out, 0, arguments.windows)
    names = [tensor.name for tensor in matrices(model)]
    if arguments.block is not None:
        names = [name for name in names if block(name) == arguments.block]
    inputs = mean_squares(model, names, some(calibration, 0, arguments.windows))
    coded, errors = {}, {}
    for name in track(names, "encoding"):
        weight = model.get_parameter(name).detach()
        importance = inputs[name].float().numpy() if arguments.importance else None
        coded[name] = encode(weight.numpy(), arguments.type, importance)
        errors[name] = relative_errors(weight, coded[name], inputs[name])

    def measure(group: Group) -> Group:
        group.found = evaluate(model, texts, {name: coded[name] for name in group.tensors})
        for key in ("weights", "outputs", "largest_input"):
            group.found[key] = float(np.mean([errors[name][key] for name in group.tensors] or [0]))
        print(f"{group.name:32} KL {group.found['kl']:9.4f}", group.found, flush=True)
        return group

    kinds = list(dict.fromkeys(map(kind, names)))
    groups = [Group("none", []), Group("all", names)]
    groups += [Group(f"only {k}", [n for n in names if kind(n) == k]) for k in kinds]
    groups += [Group(f"all but {k}", [n for n in names if kind(n) != k]) for k in kinds]
    done = [measure(group) for group in groups]
    if arguments.block is None:
        for place in sorted(set(map(block, names))):
            own = [name for name in names if block(name) == place]
            done.append(measure(Group(f"block {place}", own)))
    rows = [{"group": group.name, **group.found} for group in done]
    write_text(arguments.out, json.dumps({"type": arguments.type, "groups": rows}, indent=1))


if __name__ == "__main__":
    main()
