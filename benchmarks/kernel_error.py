"""What the kernels of an instruction set change in the actions.

    python benchmarks/kernel_error.py CHECKPOINT MODEL.gguf … --dataset DATASET

For each file and each instruction set (`ggml` stands for ggml's own kernels): the action error to
the f32 policy on held-out frames, and the distance to what the same file answers by ggml's
kernels, both as rms in standard deviations of each action.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from actquant_runtime import Runtime

from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import calibrate
from actquant.fidelity.action_error import (
    NOISE_DRAW,
    action_scale,
    chunk_distances,
    draw_noise,
    reference_chunks,
)

SETS = ("ggml", "baseline", "avx2", "avx512", "avx512_vnni", "avx512_bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--isa", default=",".join(SETS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loaded = load_for_dataset(arguments.checkpoint, arguments.dataset, streamed=None)
    data = calibrate(loaded, arguments.dataset, n_frames=1, n_held_out=arguments.frames)
    samples = [data.held_out[k] for k in range(len(data.held_out))]
    noises = [draw_noise(loaded, [s.frame], 0, NOISE_DRAW)[0][0].numpy() for s in samples]
    reference = reference_chunks(loaded, samples, 0)
    scale = action_scale(loaded.interface)
    rows = []
    for model in arguments.models:
        by_ggml: np.ndarray | None = None
        for isa in arguments.isa.split(","):
            os.environ["ACTQUANT_ISA"] = isa
            runtime = Runtime(str(model), threads=1)
            chunks = np.stack(
                [
                    runtime.act(sample.observation, noise=noise)
                    for sample, noise in zip(samples, noises, strict=True)
                ]
            ).astype(np.float64)
            by_ggml = chunks if by_ggml is None else by_ggml
            errors = chunk_distances(chunks, reference, scale)
            changes = chunk_distances(chunks, by_ggml, scale)
            rows.append(
                {
                    "model": model.name,
                    "isa": isa,
                    "action_error": float(errors.mean()),
                    "standard_error": float(errors.std(ddof=1) / np.sqrt(len(errors))),
                    "distance_to_first": float(changes.mean()),
                    "n": len(errors),
                }
            )
            row = rows[-1]
            print(
                f"{model.name:24} {isa:12} error {row['action_error']:.4f} ± "
                f"{row['standard_error']:.4f}  to {arguments.isa.split(',')[0]} "
                f"{row['distance_to_first']:.4f}  n {row['n']}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
