"""Capture: a pure tensor function becomes a program for the runtime."""

from actquant.capture.rewrite.fuse import fusion_report
from actquant.capture.stage import capture_stage

__all__ = ["capture_stage", "fusion_report"]
