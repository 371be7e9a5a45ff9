"""Rewriting of graphs: simplification, fusion, hoisting, tables."""
