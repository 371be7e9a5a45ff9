"""The action error that a file says of itself (docs/format.md, `action_error`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError


class StoredActionError(BaseModel):
    """How far a file's chunks are from the f32 PyTorch policy's: the mean over n held-out frames of
    the rms distance in standard deviations of the actions, and its standard error."""

    model_config = ConfigDict(extra="forbid")

    mean: float
    standard_error: float
    n: int

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Self | None:
        """Returns that of a file; None where it has none, or says it in a form that is not ours."""
        try:
            return cls.model_validate(provenance.get("action_error"))
        except ValidationError:
            return None

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.standard_error:.4f}"
