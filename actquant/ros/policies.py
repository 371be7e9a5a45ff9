"""The policy that acts: a file here, or one behind `actquant serve`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actquant_runtime import PreviousChunk
from actquant_runtime.hub import find_model
from numpy.typing import NDArray

from actquant.common.errors import ModelFileError
from actquant.common.paths import require_file
from actquant.control.policy import Actions, Policy, PolicyDescription, RuntimePolicy
from actquant.ros.sensors import NotReadyError

_SERVED = ("ws://", "wss://")


class ServedPolicy:
    """A policy behind `actquant serve` (see `serve.client`). Raises RemoteError."""

    def __init__(self, url: str) -> None:
        from actquant.serve.client import RemoteError, RemoteRuntime

        self._error, self._runtime, self._url = RemoteError, RemoteRuntime(url), url

    def describe(self) -> PolicyDescription:
        """Returns what the server says."""
        about = self._runtime.describe()
        image = about["image"]
        return PolicyDescription.told(self._url, (image["height"], image["width"]), about)

    def act(
        self,
        observation: Mapping[str, Any],
        *,
        noise: NDArray[Any] | None = None,
        previous: PreviousChunk | None = None,
    ) -> Actions:
        """Answers as the server does. Raises NotReadyError where it does not: it may come back."""
        try:
            return self._runtime.act(observation, noise=noise, previous=previous)
        except self._error as error:
            raise NotReadyError(f"the policy does not answer: {error}") from error


def open_policy(model: str, threads: int = 0) -> Policy:
    """Opens a GGUF, one of the hub, or ws://HOST:PORT/NAME. A file proves itself by its self-test.

    Raises UsageError or HubError for what is not there, ModelFileError for a damaged file,
    RemoteError for a server that does not answer.
    """
    if model.startswith(_SERVED):
        return ServedPolicy(model)
    path = Path(require_file(find_model(model), "a GGUF"))
    policy = RuntimePolicy(path, threads)
    if policy.runtime.describe()["golden"]:
        found = policy.runtime.self_test()
        if not found["passed"]:
            raise ModelFileError(
                f"'{path}' fails its self-test: {found['worst']:.2g} from what it answered where "
                f"it was made, {found['limit']:g} is allowed"
            )
    return policy
