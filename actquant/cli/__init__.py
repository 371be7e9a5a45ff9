"""The `actquant` command."""

from actquant.cli import policy, robot
from actquant.cli.output import app

__all__ = ["app", "policy", "robot"]
