"""What can be set of a compressed policy behind `actquant serve`; all else its server says."""

from __future__ import annotations

from dataclasses import dataclass

from .configuration_actquant import CompressedConfig
from .lerobot_api import PreTrainedConfig


@PreTrainedConfig.register_subclass("actquant_remote")
@dataclass
class ActquantRemoteConfig(CompressedConfig):
    """A policy that a server runs. The key that it may want is in $ACTQUANT_API_KEY."""

    url: str = ""  # ws://HOST:PORT or wss://HOST:PORT, and /NAME for one of several policies
    timeout_s: float = 10.0  # for connecting, and for one chunk
    tls_certificate: str | None = None  # PEM of the server's authority, where the system lacks it

    @property
    def source(self) -> str:
        return self.url
