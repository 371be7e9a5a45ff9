"""actquant: compress a Vision-Language-Action policy by what its weights do to the robot's actions."""

__version__ = "0.1.0"
