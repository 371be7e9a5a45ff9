"""Splitting a graph into device and host operators."""
