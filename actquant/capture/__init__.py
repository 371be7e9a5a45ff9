"""Capture: a pure tensor function becomes a program for the runtime."""

from actquant.capture.fuse import fusion_report
from actquant.capture.interpret import interpret
from actquant.capture.ir import Graph, Node
from actquant.capture.program import emit_program, parse_program
from actquant.capture.stage import capture_stage

__all__ = [
    "Graph",
    "Node",
    "capture_stage",
    "emit_program",
    "fusion_report",
    "interpret",
    "parse_program",
]
