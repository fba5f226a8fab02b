"""What ``/metrics`` shows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ..devices.power import INTERVAL, PowerSensor, sensor_of
from ..runtime.engine import PassResult
from ..runtime.llm import LLM
from ..runtime.scheduler import Scheduler

__all__ = ["Metrics", "ServerMetrics", "Stopwatch", "labelled"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ServerMetrics:
    """Counters of the HTTP side of a server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("hwgen_requests", "Requests answered.", ["path", "status"], registry=r)
        self.connections = Gauge("hwgen_connections", "Open connections.", registry=r)
        self.closed = Counter("hwgen_connections_closed", "Connections that the server closed.", ["reason"], registry=r)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)


class Metrics:
    """Counters of one model, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.prompt_tokens = Counter("hwgen_prompt_tokens", "Tokens of prompts.", registry=r)
        self.reused_tokens = Counter("hwgen_reused_tokens", "Tokens of prompts found in the KV cache.", registry=r)
        self.answer_tokens = Counter("hwgen_answer_tokens", "Tokens of answers.", registry=r)
        self.cancelled = Counter("hwgen_cancelled", "Answers whose client went away.", registry=r)
        self.passes = Counter("hwgen_passes", "Passes of the accelerator.", ["phase"], registry=r)
        self.cycles = Counter("hwgen_cycles", "Cycles of the accelerator in passes.", ["phase"], registry=r)
        self.pass_seconds = Counter("hwgen_pass_seconds", "Seconds in passes.", ["phase"], registry=r)
        self.first_token = Histogram("hwgen_first_token_seconds", "Request to first token.", buckets=_SECONDS, registry=r)
        self.next_token = Histogram("hwgen_next_token_seconds", "Token to token.", buckets=_SECONDS, registry=r)
        self.duration = Histogram("hwgen_answer_seconds", "Request to last token.", buckets=_SECONDS, registry=r)

        #: Of the board, where it has one that is known; power when it was last looked at.
        self._sensor: PowerSensor | None = None
        self._joules: Counter | None = None
        self._watts, self._looked = 0.0, -INTERVAL

    def watch(self, llm: LLM, scheduler: Scheduler) -> None:
        """Show the state of these with every scrape: of the engine that ``llm`` has then."""
        self._sensor = sensor_of(llm.device)
        if self._sensor is not None:
            text = f"Energy in passes by {self._sensor.name}: {self._sensor.measures}."
            self._joules = Counter("hwgen_pass_joules", text, ["phase"], registry=self.registry)
        for name, text, value in (
            ("hwgen_running", "Answers that have a session.", lambda: scheduler.running),
            ("hwgen_waiting", "Answers that wait for one.", lambda: scheduler.waiting),
            ("hwgen_kv_pages", "Pages of the KV cache.", lambda: llm.image.pages),
            ("hwgen_kv_pages_free", "Pages that nobody holds.", lambda: llm.engine.pages.free),
            ("hwgen_prefixes", "Token sequences kept for reuse.", lambda: 0 if llm.prefixes is None else len(llm.prefixes)),
            ("hwgen_time_between_tokens_bound", "Longest pass of answers beside prompts, in passes of one token; estimated.",
             lambda: scheduler.kept_bound),
            ("hwgen_device_reopened", "Times that a failed device was opened anew.", lambda: scheduler.reopened),
            ("hwgen_device_failed", "1 while the device has failed.", lambda: int(scheduler.failure is not None)),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def observe(self, result: PassResult, prefill: bool, seconds: float) -> None:
        """One pass of the accelerator, of prompts alone or with answers in it, or a loop."""
        phase = "prefill" if prefill else "decode"
        self.passes.labels(phase).inc(result.passes)
        self.cycles.labels(phase).inc(result.cycles)
        self.pass_seconds.labels(phase).inc(seconds)
        if self._joules is not None and self._sensor is not None:
            if time.monotonic() - self._looked > INTERVAL:
                self._watts, self._looked = self._sensor.watts() or self._watts, time.monotonic()
            self._joules.labels(phase).inc(self._watts * seconds)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)


def labelled(texts: Mapping[str, str], label: str) -> bytes:
    """Several texts in the format of Prometheus as one: every sample gets ``label`` with the name of its text."""
    merged: dict[str, Metric] = {}
    for name, text in texts.items():
        for family in text_string_to_metric_families(text):
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into.samples += [sample._replace(labels={label: name, **sample.labels}) for sample in family.samples]

    class Merged(Collector):
        def collect(self) -> Iterable[Metric]:
            return merged.values()

    registry = CollectorRegistry()
    registry.register(Merged())
    return generate_latest(registry)


class Stopwatch:
    """Times of one answer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begin = self._last = time.monotonic()
        self._tokens = 0

    def token(self) -> None:
        now = time.monotonic()
        (self._metrics.next_token if self._tokens else self._metrics.first_token).observe(now - self._last)
        self._last = now
        self._tokens += 1

    def end(self) -> None:
        self._metrics.duration.observe(time.monotonic() - self._begin)
