"""The `actquant` command."""

from actquant.cli import policy, robot, serve
from actquant.cli.output import app

__all__ = ["app", "policy", "robot", "serve"]
