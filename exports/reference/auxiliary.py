"""Auxiliary losses on positions; their heads are thrown away after training.

They tell the image tokens where every object is and the state token where the instruction's
target and goal are, which the actions alone would teach far more slowly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from build_policy import PolicySize
from objective import Prefix, Weights
from torch import Tensor

OBJECTS = 6
CENTRE = (-0.28, 0.0, 0.04)  # m
SPREAD = (0.08, 0.08, 0.05)  # m
NEAR = 0.03  # m: unit of relative positions
IN_VIEW = 0.1  # m: horizontal distance to the tool within which the wrist camera sees an object


def make_heads(size: PolicySize, seed: int) -> Weights:
    """Weights of the heads."""
    generator = torch.Generator().manual_seed(seed)
    tokens = size.image_tokens * size.width
    shapes = {
        "aux.scene": (3 * OBJECTS + 3, tokens),
        "aux.wrist": (3 * OBJECTS, tokens),
        "aux.state": (12, size.width),
        "aux.early": (12, size.width),
    }
    out = {}
    for name, (rows, columns) in shapes.items():
        out[name + ".weight"] = torch.randn(rows, columns, generator=generator) * columns**-0.5
        out[name + ".bias"] = torch.zeros(rows)
    return out


def head(w: Weights, name: str, x: Tensor) -> Tensor:
    x = x.to(w[name + ".weight"].dtype)
    return F.linear(x, w[name + ".weight"], w[name + ".bias"]).float()


def masked_mean(errors: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of errors [B, n, 3] where mask [B, n]."""
    weight = mask[..., None].float()
    return (errors * weight).sum() / (weight.sum() * errors.shape[-1] + 1e-6)


def position_loss(w: Weights, size: PolicySize, prefix: Prefix, batch: dict[str, Tensor]) -> Tensor:
    """Returns the sum of the position losses of a batch."""
    centre, spread = torch.tensor(CENTRE), torch.tensor(SPREAD)
    objects, tool, goal, present = (batch[k] for k in ("objects", "tool", "goal", "present"))
    target = objects.gather(1, batch["target"][:, None, None].expand(-1, 1, 3))[:, 0]
    count = size.image_tokens
    scene = prefix.image_tokens[:, :count].flatten(1)
    wrist = prefix.image_tokens[:, count : 2 * count].flatten(1)

    seen = head(w, "aux.scene", scene)
    places = (objects - centre) / spread
    errors = (seen[:, : 3 * OBJECTS].view(-1, OBJECTS, 3) - places).square()
    loss = masked_mean(errors, present) + F.mse_loss(
        seen[:, 3 * OBJECTS :], (tool - centre) / spread
    )

    apart = objects - tool[:, None]
    in_view = present & (apart[..., :2].norm(dim=-1) < IN_VIEW)
    guess = head(w, "aux.wrist", wrist).view(-1, OBJECTS, 3)
    loss = loss + masked_mean(F.smooth_l1_loss(guess, apart / NEAR, reduction="none"), in_view)

    told = torch.cat(
        [
            (target - centre) / spread,
            (target - tool) / NEAR,
            (goal - centre) / spread,
            (goal - tool) / NEAR,
        ],
        dim=1,
    )
    for name, state in (("aux.state", prefix.states[-1]), ("aux.early", prefix.states[-2])):
        loss = loss + F.smooth_l1_loss(head(w, name, state), told)
    return loss
