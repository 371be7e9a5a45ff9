"""What a server is told, checked before anything is opened."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actquant_runtime.hub import find_model

from actquant.common.errors import ActquantError

KEY_VARIABLE = "ACTQUANT_API_KEY"
"""Environment variable with the key that clients must have: not on the command line, where other
users would see it."""


class ServeError(ActquantError):
    """A server cannot be set up as it was told."""


@dataclass(frozen=True)
class ServeSettings:
    """How to serve: `models` is name -> file; the first is also served without a name.

    max_message_bytes: of one message; a longer one closes its connection unread. deadline_s: how
    long a request may wait for its turn; keepalive_s: how often each client is asked for a sign of
    life, and for how long it may owe one; queue: how many may wait or run for one model; renamed: a
    client's names -> the policy's; insecure: other machines may connect without a key.
    """

    models: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    insecure: bool = False
    queue: int = 16
    deadline_s: float = 5.0
    keepalive_s: float = 20.0
    max_clients: int = 64
    max_message_bytes: int = 64_000_000
    threads: int = 0
    device: str = "cpu"
    renamed: Mapping[str, str] | None = None
    watch_s: float = 1.0

    def check(self) -> None:
        """Raises ServeError for what makes no sense or is not safe."""
        if not self.models:
            raise ServeError("there is no model to serve")
        numbers = {
            "--queue": self.queue,
            "--deadline": self.deadline_s,
            "--keepalive": self.keepalive_s,
            "--max-clients": self.max_clients,
            "--max-message-mb": self.max_message_bytes,
        }
        for name, value in numbers.items():
            if not 0 < value < float("inf"):
                raise ServeError(f"{name} must be a number above 0, not {value}")
        if not 0 <= self.port < 65536:
            raise ServeError(f"--port must be from 0 to 65535, not {self.port}")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ServeError("--tls-certificate and --tls-key belong together")
        if not is_loopback(self.host) and self.api_key is None and not self.insecure:
            raise ServeError(
                f"{self.host} lets other machines connect: set {KEY_VARIABLE}, or allow anybody "
                "to move your robot's policy by --insecure"
            )

    def tls(self) -> ssl.SSLContext | None:
        """Returns the context of the certificate; None without one. Raises ServeError."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.certificate_key)
        except (OSError, ssl.SSLError) as error:
            raise ServeError(f"the certificate cannot be read: {error}") from error
        return context


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can connect to an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def named_models(given: Sequence[str]) -> dict[str, Path]:
    """Returns name -> file of NAME=FILE and FILE, whose name is the file's without its ending.

    FILE may be a name on the Hugging Face hub (see `actquant_runtime.hub.find_model`), which is
    downloaded. Raises ServeError for names that are there twice or do not fit in an address,
    HubError if the hub does not give a file.
    """
    models: dict[str, Path] = {}
    for each in given:
        name, separator, file = each.partition("=")
        path = Path(find_model(file if separator else each))
        name = name if separator else path.stem
        if not name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
            raise ServeError(f"{name!r} is no name for a model; give one as NAME={path}")
        if name in models:
            raise ServeError(f"two models are called {name}; give names as NAME=FILE")
        models[name] = path
    return models


def key_of_environment() -> str | None:
    """Returns the key that clients must have. Raises ServeError for one that cannot be sent."""
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        return None
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise ServeError(f"{KEY_VARIABLE} is empty or has letters that no header can carry")
    return key
