"""A fake Universal Robots controller, backed by the MuJoCo world of lerobot_env_ur3e.

It answers the unmodified ur-rtde client as a UR3e (e-Series) or UR3 (CB3) does. `FakeController`
runs it as a process of its own; `python -m ur_fake_controller` does so in a shell.
"""

from .process import ControllerError, FakeController, Faults

__all__ = ["ControllerError", "FakeController", "Faults"]
