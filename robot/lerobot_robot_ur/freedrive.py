"""LeRobot teleoperator `ur_freedrive`: the arm is led by hand, and its positions are recorded.

It works with the robot of the same address in the same program, as `lerobot-record` has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

from .errors import ConnectionFailed
from .lerobot_plugin import CONNECTED, UR


@TeleoperatorConfig.register_subclass("ur_freedrive")
@dataclass(kw_only=True)
class URFreedriveConfig(TeleoperatorConfig):
    """`ip` is that of the robot."""

    ip: str


class URFreedrive(Teleoperator):
    """Freedrive of an arm with the layout `joints`; an action is where the arm is.

    The fingers stay where they are.
    """

    config_class = URFreedriveConfig
    name = "ur_freedrive"

    def __init__(self, config: URFreedriveConfig):
        super().__init__(config)
        self.config = config
        self._robot: UR | None = None

    def _find(self) -> UR:
        robot = CONNECTED.get(self.config.ip)
        if robot is None:
            raise ConnectionFailed(
                f"{self.config.ip}: ur_freedrive needs the robot of this address in the same "
                "program: --robot.type=ur3e (or another) --robot.ip as --teleop.ip"
            )
        if robot.driver.layout.name != "joints":
            raise ConnectionFailed("ur_freedrive records joint positions: --robot.layout=joints")
        return robot

    @property
    def action_features(self) -> dict[str, Any]:
        return self._find().action_features

    @property
    def feedback_features(self) -> dict[str, Any]:
        return {}

    @property
    def is_connected(self) -> bool:
        return self._robot is not None

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Does nothing: the arm's encoders are absolute."""

    def configure(self) -> None:
        """Does nothing."""

    def connect(self, calibrate: bool = True) -> None:
        """Lets the robot, which has to be connected, be led by hand. Raises ConnectionFailed."""
        robot = self._find()
        robot.driver.arm.lead(True)
        self._robot = robot

    def get_action(self) -> dict[str, Any]:
        """Returns where the arm and its fingers are, under the names of the robot's actions."""
        if self._robot is None:
            raise ConnectionFailed("ur_freedrive is not connected")
        driver = self._robot.driver
        values = driver.measure(driver.layout.action)
        return dict(zip(driver.layout.action, map(float, values), strict=True))

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """Does nothing."""

    def disconnect(self) -> None:
        """Ends freedrive; the arm stays where it is."""
        robot, self._robot = self._robot, None
        if robot is not None and robot.is_connected and robot.driver.arm.stopped is None:
            robot.driver.arm.lead(False)
