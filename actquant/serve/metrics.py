"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The server's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "actquant_requests",
            "Messages of clients, by how they ended",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.inference = Histogram(
            "actquant_inference_seconds",
            "Time that a policy takes for a chunk",
            ["model"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.answer = Histogram(
            "actquant_answer_seconds",
            "Time from a message to its answer",
            ["model"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "actquant_waiting_requests",
            "Requests that wait or run",
            ["model"],
            registry=self.registry,
        )
        self.sessions = Gauge(
            "actquant_sessions", "Connected clients", ["model"], registry=self.registry
        )
        self.reloads = Counter(
            "actquant_reloads",
            "New files found in the place of old ones",
            ["model", "outcome"],
            registry=self.registry,
        )

    def text(self) -> str:
        """Returns all values in Prometheus' text format."""
        return generate_latest(self.registry).decode()
