"""What is counted and timed, for Prometheus. No label carries anything of a tenant: no ids, keys, paths or
names.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pandastackd.lifecycle import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pandastack_http_requests_total",
            "HTTP requests by method, route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "pandastack_http_request_seconds",
            "Time until the last byte of the response, by route.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._phases = Histogram(
            "pandastack_create_phase_seconds",
            "Time of each phase of a create.",
            ["phase"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._sandboxes = Gauge(
            "pandastack_sandboxes", "Sandboxes by state.", ["state"], registry=self._registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one finished request; ``route`` is the template, not the path."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def created(self, phases_ms: Mapping[str, float]) -> None:
        """Record how long each phase of a create took."""
        for phase, milliseconds in phases_ms.items():
            self._phases.labels(phase).observe(milliseconds / 1000)

    def render(self, sandboxes: Mapping[str, int]) -> bytes:
        """Everything in Prometheus' text format; ``sandboxes`` are the present numbers by state."""
        for state in State:
            if state is not State.DELETED:
                self._sandboxes.labels(state.value).set(sandboxes.get(state.value, 0))
        return generate_latest(self._registry)
