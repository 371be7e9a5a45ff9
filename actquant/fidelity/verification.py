"""Golden self-test of a model file on this machine, and its distance to the checkpoint."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import ModelFileError, ParityError
from actquant.format.golden import golden_input
from actquant.format.model_file import ModelFile, read_model

# Another machine adds up in another order. f32 stays near 1e-6; below 8 bits, ggml rounds
# activations to 8 bits, and a rounding that tips the other way moves the action by more.
LIMIT_FLOAT = 1e-4
LIMIT_QUANTIZED = 5e-2


class VerificationCheck(BaseModel):
    """Errors relative to the rms of the expected actions; no limit: measured, not judged."""

    model_config = ConfigDict(extra="forbid")

    name: str
    max_abs: float
    rms: float
    limit: float | None
    n: int

    @property
    def passed(self) -> bool:
        return self.limit is None or self.rms <= self.limit


class Verification(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    checks: list[VerificationCheck]
    passed: bool

    def raise_if_failed(self) -> None:
        """Raises ParityError naming the checks that failed."""
        failed = [check for check in self.checks if not check.passed]
        if failed:
            raise ParityError(
                f"{self.path} does not compute here what it computed where it was made: "
                + "; ".join(f"{c.name}: rms {c.rms:.1e}, limit {c.limit:.0e}" for c in failed)
            )


def verify(path: Path, against: Path | None = None) -> Verification:
    """Runs the stored golden inputs, and compares with the stored actions.

    against: the checkpoint folder the file was made from; adds the distance to PyTorch's actions
    on inputs of seeds that are not stored. It is judged only where the file is not quantized.
    Raises ModelFileError if the file is damaged or has no golden values.
    """
    model = read_model(path)
    if not model.metadata.golden:
        raise ModelFileError(f"{path} has no golden values; compress it again")
    quantized = model.quantized_bits_per_weight is not None
    checks = _golden_checks(model, LIMIT_QUANTIZED if quantized else LIMIT_FLOAT)
    if against is not None:
        checks.append(_against(path, against, quantized))
    return Verification(path=str(path), checks=checks, passed=all(check.passed for check in checks))


def _golden_checks(model: ModelFile, limit: float) -> list[VerificationCheck]:
    from actquant_runtime import Runtime

    runtime = Runtime(str(model.path))
    actual, stored, reference = [], [], []
    for item in model.metadata.golden:
        given = golden_input(
            model.metadata.interface, item["seed"], item["prompt"], item["masked_cameras"]
        )
        actual.append(runtime.act(given.observation, noise=given.noise))
        stored.append(item["actions"])
        reference.append(item["actions_reference"])
    return [
        _check("golden actions of this file", actual, stored, limit),
        _check("golden actions of the f32 policy", actual, reference, None),
    ]


def _check(
    name: str, actual: list[np.ndarray], expected: list[np.ndarray], limit: float | None
) -> VerificationCheck:
    wanted = np.asarray(expected, np.float64)
    error = np.asarray(actual, np.float64) - wanted
    scale = float(np.sqrt(np.mean(wanted**2)))
    return VerificationCheck(
        name=name,
        max_abs=float(np.abs(error).max()) / scale,
        rms=float(np.sqrt(np.mean(error**2))) / scale,
        limit=limit,
        n=len(wanted),
    )


def _against(path: Path, checkpoint: Path, quantized: bool) -> VerificationCheck:
    from actquant.fidelity.parity import PROMPTS, runtime
    from actquant.format.golden import golden_inputs
    from actquant.policies import load_policy

    loaded = load_policy(
        checkpoint, control_rate_hz=read_model(path).metadata.interface.control_rate_hz
    )
    runner = runtime(path)
    inputs = golden_inputs(loaded.interface, PROMPTS, n=16, first_seed=1_000)
    actual = [runner.act(x.observation, noise=x.noise) for x in inputs]
    expected = [loaded.family.act(loaded, dict(x.observation), x.noise) for x in inputs]
    f16 = any(t.type == "F16" for t in read_model(path).tensors.values())
    limit = None if quantized or f16 else LIMIT_FLOAT
    return _check(f"fresh inputs against {checkpoint.name}", actual, expected, limit)
