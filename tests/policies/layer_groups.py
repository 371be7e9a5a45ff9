"""Which layers the weights of a policy belong to."""

from torch import nn

from actquant.policies.base import LoadedPolicy

MATRICES = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d


def layers_of(loaded: LoadedPolicy, *, but: str | None = None) -> set[str]:
    """Returns the layers of all matrices, each of which must be of its group; but: part of names
    that are left out."""
    layers = set()
    for name, module in loaded.policy.named_modules():
        if isinstance(module, MATRICES) and (but is None or but not in name):
            group, layer = loaded.family.group_of(f"{name}.weight")
            assert layer.split(".")[0] == group
            layers.add(layer)
    return layers
