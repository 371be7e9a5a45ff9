"""The `actquant` command."""

from actquant.cli import policy  # its commands stand first in the help

# isort: split
from actquant.cli import evaluation, hub, robot, ros, serve
from actquant.cli.output import app

__all__ = ["app", "evaluation", "hub", "policy", "robot", "ros", "serve"]
