"""Self-test of a model file on this machine, and its distance to the checkpoint."""

from pathlib import Path

import numpy as np
from actquant_runtime import Runtime
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import ParityError
from actquant.fidelity.distance import UNIT, Distance, action_scale, measure_distance
from actquant.format.model_file import read_model


class VerificationCheck(BaseModel):
    """One comparison; a distance without a limit is measured, not judged."""

    model_config = ConfigDict(extra="forbid")

    name: str
    distance: Distance


class Verification(BaseModel):
    """What was compared, and whether all that is judged is within its limit."""

    model_config = ConfigDict(extra="forbid")

    path: str
    unit: str = UNIT
    checks: list[VerificationCheck]
    passed: bool

    def raise_if_failed(self) -> None:
        """Raises ParityError naming the checks that failed."""
        failed = [check for check in self.checks if not check.distance.passed]
        if failed:
            raise ParityError(
                f"{self.path} does not compute here what it computed where it was made: "
                + "; ".join(f"{c.name}: {c.distance}" for c in failed)
            )


def verify(path: Path, against: Path | None = None, device: str = "cpu") -> Verification:
    """Runs the runtime's self-test: the stored golden inputs, compared with the stored actions.

    against: the checkpoint folder the file was made from; adds the distance to PyTorch's actions on
    inputs of seeds that are not stored. It is judged only where all matrices are F32. device: as
    `Runtime` takes it.

    Raises ModelFileError, the runtime's or ours, if the file is damaged or has no golden values.
    """
    found = Runtime(str(path), device=device).self_test()
    n = found["inputs"]
    own = Distance(mean=found["mean"], worst=found["worst"], n=n, limit=found["limit"])
    checks = [VerificationCheck(name="golden actions of this file", distance=own)]
    if np.isfinite(found["reference_mean"]):
        reference = Distance(mean=found["reference_mean"], worst=found["reference_worst"], n=n)
        checks.append(
            VerificationCheck(name="golden actions of the f32 policy", distance=reference)
        )
    if against is not None:
        checks.append(_against(path, against, device))
    passed = all(check.distance.passed for check in checks)
    return Verification(path=str(path), checks=checks, passed=passed)


def _against(path: Path, checkpoint: Path, device: str) -> VerificationCheck:
    from actquant.fidelity.parity import F32_THRESHOLD, PROMPTS, chunks_of
    from actquant.format.golden import golden_inputs
    from actquant.policies import load_policy

    model = read_model(path)
    loaded = load_policy(checkpoint, control_rate_hz=model.metadata.interface.control_rate_hz)
    runner = Runtime(str(path), device=device)
    inputs = golden_inputs(loaded.interface, PROMPTS, n=16, first_seed=1_000)
    actual = chunks_of(runner, inputs)
    expected = [loaded.family.act(loaded, dict(x.observation), x.noise) for x in inputs]
    single = all(tensor.type in ("F32", "I64", "I8") for tensor in model.tensors.values())
    return VerificationCheck(
        name=f"fresh inputs against {checkpoint.name}",
        distance=measure_distance(
            actual,
            np.stack(expected),
            action_scale(loaded.interface),
            limit=F32_THRESHOLD if single else None,
        ),
    )
