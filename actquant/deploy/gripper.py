"""A gripper that is not active moves its fingers to become so: not without permission."""

from actquant.common.errors import NotAllowedError
from actquant.deploy.operator import Operator
from actquant.deploy.robot import Robot
from actquant.deploy.settings import Settings


def permit_activation(settings: Settings, robot: Robot, operator: Operator) -> None:
    """Returns if connecting moves no finger, or if it may.

    Raises NotAllowedError if the gripper would have to be activated and nobody allowed it.
    """
    from lerobot_robot_ur.gripper import GripperError, make_gripper

    config = robot.arm.config
    gripper = make_gripper(config.gripper, config.gripper_ip or config.ip)
    if gripper is None or settings.activate_gripper or (settings.yes and not settings.dry_run):
        return
    try:
        gripper.connect()
        gripper.read()
        return
    except GripperError as error:
        reason = str(error)
    finally:
        gripper.close()
    answer = operator.ask(
        f"{reason}. To become active it opens and closes once. Type yes to allow that:"
    )
    if answer.lower() not in ("yes", "y"):
        raise NotAllowedError(
            f"{reason}. To become active it opens and closes once: allow it with "
            "--activate-gripper, or activate it at the pendant"
        )
