"""Serving policy files over a network, in openpi's websocket protocol (docs/serve.md)."""
