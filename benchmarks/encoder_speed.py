"""How long error feedback takes beside ggml's own encoder, per weight. One table.

    python benchmarks/encoder_speed.py --like actquant-2.5bpw.gguf

Both encode the same matrix on one thread, in turns within one run; the figures are the least of
each, since other work on the machine only adds. The last line is for all quantized weights of a
file, in its types.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from actquant_runtime import quantize, quantize_with_feedback

from actquant.encoders.feedback import factor_inverse
from actquant.format.model_file import read_model

TYPES = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K"),
    *("IQ4_XS", "Q4_K", "IQ4_NL", "Q4_0", "Q5_0", "Q5_K", "Q6_K", "Q8_0"),
)


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def count_weights(path: Path) -> dict[str, int]:
    """Returns how many weights of a file each quantized type holds."""
    counts: Counter[str] = Counter()
    for tensor in read_model(path).tensors.values():
        if tensor.quantized:
            counts[tensor.type] += math.prod(tensor.shape)
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--like", type=Path, help="a GGUF")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.05, (arguments.rows, arguments.columns)).astype(np.float32)
    inputs = rng.normal(size=(2 * arguments.columns, arguments.columns))
    factor = factor_inverse(inputs.T @ inputs / len(inputs))
    importance = np.ones_like(weight)
    print(f"{'type':8} {'ggml':>9} {'feedback':>9}  ns a weight, {weight.shape}, 1 thread")
    counts = count_weights(arguments.like) if arguments.like else {}
    whole = np.zeros(2)
    for name in TYPES:
        found = [
            (
                seconds(lambda name=name: quantize(weight, name, importance, threads=1)),
                seconds(lambda name=name: quantize_with_feedback(weight, name, factor, threads=1)),
            )
            for _ in range(arguments.turns)
        ]
        plain, fed = (1e9 * min(times) / weight.size for times in zip(*found, strict=True))
        whole += counts.pop(name, 0) * np.array([plain, fed])
        print(f"{name:8} {plain:9.1f} {fed:9.1f}  {fed / plain:.2f}x")
    if arguments.like:
        if counts:
            raise SystemExit(f"{arguments.like} has types that were not measured: {counts}")
        print(f"{arguments.like.name}: {whole[1] / whole[0]:.2f}x")


if __name__ == "__main__":
    main()
