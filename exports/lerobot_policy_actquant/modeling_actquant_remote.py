"""The policy behind `actquant serve`: another machine computes its chunks."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from actquant.serve.client import RemoteRuntime

from .configuration_actquant_remote import ActquantRemoteConfig
from .folders import save
from .modeling_actquant import CompressedPolicy


class ActquantRemotePolicy(CompressedPolicy):
    """Asks a server for the chunks that `ActquantPolicy` computes; they are the same.

    Raises actquant.serve.client.RemoteError when it is made, and when it is asked for a chunk, if
    the server cannot be reached, refuses, or does not answer in time.
    """

    config_class = ActquantRemoteConfig  # pyright: ignore[reportAssignmentType]
    name = "actquant_remote"  # pyright: ignore[reportAssignmentType]
    config: ActquantRemoteConfig

    def _open(self) -> RemoteRuntime:
        config = self.config
        if not config.url:
            raise ValueError("no server is named; set --policy.url=ws://HOST:PORT")
        return RemoteRuntime(
            config.url,
            timeout_s=config.timeout_s,
            certificate=Path(config.tls_certificate) if config.tls_certificate else None,
        )

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Writes `config.json` and the processors; the policy stays where it is."""
        save(self.config, save_directory)
