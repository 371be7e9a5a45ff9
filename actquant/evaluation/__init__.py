"""Closed-loop success, comparison, latency and memory, inspection."""
