"""One file per policy family; `registry` names them."""

from actquant.policies.base import (
    LoadedPolicy,
    Observation,
    PolicyFamily,
    QuantizableTensor,
    Stage,
)
from actquant.policies.loading import declared_cameras, load_policy
from actquant.policies.registry import supported_policies

__all__ = [
    "LoadedPolicy",
    "Observation",
    "PolicyFamily",
    "QuantizableTensor",
    "Stage",
    "declared_cameras",
    "load_policy",
    "supported_policies",
]
