"""A deployment as a rerun recording: pictures, state and actions over time."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import DeployError, RecordingError
from actquant.control.chunk_scheduler import Tick
from actquant.deploy.policy import Policy, Seen

_FLUSH_TIMEOUT_S = 10.0  # without one, it waits for ever for a writer that has failed


class RerunLog:
    """Writes FILE.rrd; raises DeployError if rerun is not installed."""

    def __init__(self, path: Path, policy: Policy) -> None:
        try:
            import rerun
        except ImportError as error:
            raise DeployError(
                f"--rerun needs rerun-sdk ({error}); pip install 'actquant[rerun]'"
            ) from error
        self._rerun: Any = rerun
        self._path, self._policy, self._tick = path, policy, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = rerun.RecordingStream("actquant deploy")
        self._stream.save(str(path))

    def frame(self, seen: Seen, action: NDArray[np.float32], tick: Tick) -> None:
        rerun, stream = self._rerun, self._stream
        stream.set_time("tick", sequence=self._tick)
        stream.set_time("time", duration=seen.made_s)
        self._tick += 1
        for name in self._policy.cameras:
            if name in seen.raw:
                stream.log(name.replace(".", "/"), rerun.Image(seen.raw[name]))
        state = seen.raw.get("observation.state", ())
        for group, names, values in (
            ("state", self._policy.state_names, state),
            ("action", self._policy.action_names, action),
        ):
            for name, value in zip(names, values, strict=True):
                stream.log(f"{group}/{name}", rerun.Scalars(float(value)))
        stream.log("chunk/number", rerun.Scalars(float(tick.chunk)))
        stream.log("chunk/age_s", rerun.Scalars(tick.age_s))

    def close(self) -> None:
        """A file without a frame goes. Raises RecordingError if it could not be written whole."""
        try:
            self._stream.flush(timeout_sec=_FLUSH_TIMEOUT_S)
        except RuntimeError as error:
            raise RecordingError(f"{self._path} could not be written whole: {error}") from error
        finally:
            self._stream.disconnect()
            if not self._tick:
                self._path.unlink(missing_ok=True)
