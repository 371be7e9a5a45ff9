"""OpenVLA-OFT in its published layout."""

from actquant.policies.openvla_oft.family import OpenVLAOFTFamily

__all__ = ["OpenVLAOFTFamily"]
