"""The program language: its IR, sizes that depend on the prompt, its text, its interpreter."""

from actquant.program.interpret import interpret
from actquant.program.ir import Graph, Node
from actquant.program.text import emit_program, parse_program

__all__ = ["Graph", "Node", "emit_program", "interpret", "parse_program"]
