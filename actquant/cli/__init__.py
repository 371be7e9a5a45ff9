"""The `actquant` command."""

from actquant.cli import hub, policy, robot, serve
from actquant.cli.output import app

__all__ = ["app", "hub", "policy", "robot", "serve"]
