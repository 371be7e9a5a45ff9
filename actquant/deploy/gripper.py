"""A gripper that is not active moves its fingers to become so: not without permission."""

from actquant.common.errors import NotAllowedError
from actquant.deploy.operator import Operator
from actquant.deploy.robot import Robot
from actquant.deploy.settings import DeploySettings


def permit_activation(settings: DeploySettings, robot: Robot, operator: Operator) -> None:
    """Returns if connecting moves no finger, or if it may.

    Raises NotAllowedError if the gripper would have to be activated and nobody allowed it.
    """
    if settings.activate_gripper or (settings.yes and not settings.dry_run):
        return
    reason = robot.port.gripper_lacks()
    if not reason:
        return
    answer = operator.ask(
        f"{reason}. To become active it opens and closes once. Type yes to allow that:"
    )
    if answer.lower() not in ("yes", "y"):
        raise NotAllowedError(
            f"{reason}. To become active it opens and closes once: allow it with "
            "--activate-gripper, or activate it at the pendant"
        )
