"""actquant compresses a Vision-Language-Action policy by what its weights do to the actions."""

__version__ = "0.1.0"
