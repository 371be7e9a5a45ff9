"""LIBERO's four suites as environments, simulated by hf-libero in a process of its own.

Its versions of MuJoCo and others do not go together with the simulators here, so that it has an
environment of its own, which `make libero` sets up; libero_process.py runs there.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import EvaluationError, SimulatorError
from actquant.control.window import Observation
from actquant.environments.base import Step, SuiteFacts, hold_relative, require_task

ROOT = Path(__file__).parents[2]
VENV, ASSETS = "ACTQUANT_LIBERO_VENV", "ACTQUANT_LIBERO_ASSETS"
"""Environment variables: where LIBERO is installed, and a folder of assets (`hub`: hf-libero's own
way)."""
STAND_INS = ROOT.parent / "shared" / "libero" / "assets"
"""Assets that are taken where they are, and no others are named."""
STAND_IN_VISUALS = "stand-in visuals"
MEMORY_BYTES = 2_200_000_000
"""Of the process with one environment, measured."""
CONTROL_RATE_HZ = 20.0
LONGEST_ANSWER_S = 1800.0
LONGEST_DOWNLOAD_S = 7200.0
SETTINGS = {"MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def libero_python() -> Path:
    """Returns the Python that has LIBERO. Raises EvaluationError where it is not set up."""
    python = Path(os.environ.get(VENV) or ROOT / ".venv-libero") / "bin" / "python"
    if not python.is_file():
        raise EvaluationError(
            f"LIBERO is not installed ({python.parents[1]} has no Python): run `make libero`"
        )
    return python


def assets_folder() -> Path | None:
    """Returns the folder of assets to take; None for hf-libero's own way. Raises EvaluationError
    for one that is named and is not there."""
    named = os.environ.get(ASSETS, "")
    if named == "hub":
        return None
    if named and not Path(named).is_dir():
        raise EvaluationError(f"{ASSETS}={named}: there is no such folder")
    return Path(named) if named else STAND_INS if STAND_INS.is_dir() else None


class LiberoProcess:
    """The process that simulates one suite."""

    def __init__(self, suite: str) -> None:
        """Starts it. Raises EvaluationError where LIBERO is not set up."""
        python, assets = libero_python(), assets_folder()
        program = Path(__file__).with_name("libero_process.py")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self._connection, theirs = Pipe()
        with theirs:
            command = [python, "-P", program, str(theirs.fileno()), suite]
            self._process = subprocess.Popen(
                [*map(str, command), *([] if assets is None else [str(assets)])],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env={**SETTINGS, **os.environ},
            )

    def ask(self, do: str, *, within_s: float = LONGEST_ANSWER_S, **arguments: Any) -> Any:
        """Returns the answer, its `pictures` as uint8 [H, W, 3] by their names.

        Raises SimulatorError for what LIBERO raises, and if the process ends or does not answer.
        """
        try:
            self._connection.send_bytes(json.dumps({"do": do, **arguments}).encode())
            if not self._connection.poll(within_s):
                self.close()
                raise SimulatorError(f"LIBERO's process did not answer within {within_s:g} s")
            told = json.loads(self._connection.recv_bytes())
            pictures = {
                key: np.frombuffer(self._connection.recv_bytes(), np.uint8).reshape(shape)
                for key, shape in told.get("pictures", {}).items()
            }
        except (EOFError, OSError) as error:
            raise SimulatorError(f"LIBERO's process has {self._end()}") from error
        if "error" in told:
            raise SimulatorError(told["error"])
        return {**told, "pictures": pictures}

    def _end(self) -> str:
        """Tells how the process ended, and its last words."""
        if self._said.closed:
            return "been ended"
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "hung up"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}: {lines[-1][:2000] if lines else 'it said nothing'}"

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._said.close()


class LiberoEnvironment:
    """One task. Start k is the benchmark's initial state k, fixtures placed by seed 1000 + k."""

    def __init__(self, process: LiberoProcess, task: str) -> None:
        self._process, self.task = process, task
        self.instruction = str(process.ask("open", task=task)["instruction"])

    def reset(self, start: int) -> Observation:
        """Begins an episode at a numbered start, after the no-op steps."""
        self._process.ask("open", task=self.task)
        return self._observation(self._process.ask("reset", start=start))

    def step(self, action: NDArray[np.float32], *, look: bool = True) -> Step:
        """Executes an action [7] for a twentieth of a second; cameras render only to `look`."""
        told = self._process.ask("step", action=[float(x) for x in action], look=look)
        seen = self._observation(told) if look else None
        return Step(seen, done=told["done"], success=told["success"])

    def hold(self, last: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Returns the action [7] that moves nothing; the gripper stays as `last` had it."""
        return hold_relative(last)

    def render(self) -> NDArray[np.uint8]:
        """Returns the scene camera's picture, [256, 256, 3]."""
        return self._process.ask("render")["pictures"][""]

    def overview(self) -> NDArray[np.uint8]:
        """Returns the same: LIBERO's scene camera sees the arm."""
        return self.render()

    def _observation(self, told: dict[str, Any]) -> Observation:
        state = np.array(told["state"], np.float32)
        return {**told["pictures"], "observation.state": state, "task": self.instruction}


class LiberoSuite:
    """The ten tasks of a suite, in the benchmark's order."""

    cameras = ("observation.images.image", "observation.images.image2")
    distribution = "hf-libero"

    def __init__(self, name: str) -> None:
        """Starts the process. Raises EvaluationError where LIBERO is not set up, or where it has
        no assets."""
        self.name, self._process = name, LiberoProcess(name)
        self._environment: LiberoEnvironment | None = None
        try:
            told = self._process.ask("about", within_s=LONGEST_DOWNLOAD_S)
        except SimulatorError as error:
            self.close()
            raise EvaluationError(f"{name} cannot be simulated: {error}") from error
        self.tasks: tuple[str, ...] = tuple(told["tasks"])
        self._instructions: list[str] = told["instructions"]
        self.about = _facts(told)

    def environment(self, task: str) -> LiberoEnvironment:
        """Returns the task's environment; only the last one is kept."""
        require_task(self.name, self.tasks, task)
        if self._environment is None or self._environment.task != task:
            self._environment = LiberoEnvironment(self._process, task)
        return self._environment

    def mislead(self, instruction: str) -> str:
        """Returns the instruction of the suite's next task."""
        place = self._instructions.index(instruction)
        return self._instructions[(place + 1) % len(self._instructions)]

    def close(self) -> None:
        """Ends the process."""
        self._process.close()


def _facts(told: dict[str, Any]) -> SuiteFacts:
    side = told["pixels"]
    conventions = {
        "initial state": "number of the start",
        "seed of the fixtures": f"{told['first_seed']} + start, set before the initial state",
        "no-op steps after a reset": str(told["waits"]),
        "most steps": str(told["limit"]),
        "pictures": f"{side} x {side}, turned by 180 degrees",
        "state": "position, axis and angle of the hand, two finger joints",
        "action": "relative, world frame, 1 is 0.05 m or 0.5 rad; gripper -1 open, +1 closed",
        "rate": f"{CONTROL_RATE_HZ:g} Hz",
        "assets": told["assets_sha256"],
    }
    return SuiteFacts(
        conventions=conventions,
        versions=told["versions"],
        marks=() if told["genuine"] else (STAND_IN_VISUALS,),
        starts=told["starts"],
        one_task_at_a_time=True,
        memory_bytes=MEMORY_BYTES,
        control_rate_hz=CONTROL_RATE_HZ,
        published_starts="0:50",
    )


libero_spatial = partial(LiberoSuite, "libero_spatial")
libero_object = partial(LiberoSuite, "libero_object")
libero_goal = partial(LiberoSuite, "libero_goal")
libero_10 = partial(LiberoSuite, "libero_10")
