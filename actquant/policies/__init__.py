"""One file per policy family; importing the package registers them all."""

from actquant.policies import act as _act  # noqa: F401  registers the family
from actquant.policies import diffusion as _diffusion  # noqa: F401
from actquant.policies import multi_task_dit as _multi_task_dit  # noqa: F401
from actquant.policies import openvla_oft as _openvla_oft  # noqa: F401
from actquant.policies import pi0 as _pi0  # noqa: F401
from actquant.policies import pi05 as _pi05  # noqa: F401
from actquant.policies import smolvla as _smolvla  # noqa: F401
from actquant.policies import xvla as _xvla  # noqa: F401
from actquant.policies.base import (
    LoadedPolicy,
    Observation,
    PolicyFamily,
    QuantizableTensor,
    Stage,
    load_policy,
    supported_policies,
)

__all__ = [
    "LoadedPolicy",
    "Observation",
    "PolicyFamily",
    "QuantizableTensor",
    "Stage",
    "load_policy",
    "supported_policies",
]
