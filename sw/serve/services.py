"""The models of one server: one that has the device for itself, or several that take turns on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from prometheus_client import Gauge

from ...errors import HwgenError
from ..runtime.device_turns import DeviceTurns
from .errors import ApiError
from .metrics import ServerMetrics, labelled
from .service import Limits, Service

__all__ = ["Services"]


def _has_device(turns: DeviceTurns, service: Service) -> int:
    return int(turns.holder is service.llm)


class Services:
    """Services by the names of their models. ``turns``: of those that share a device; None where there is one."""

    def __init__(self, services: Sequence[Service], turns: DeviceTurns | None = None) -> None:
        self._services, self._turns = {service.name: service for service in services}, turns
        self.metrics = ServerMetrics()
        self.limits: Limits = services[0].limits
        if turns is not None:
            self._watch(turns)

    def _watch(self, turns: DeviceTurns) -> None:
        registry = self.metrics.registry
        here = Gauge("hwgen_model_on_device", "1 while the accelerator has this model.", ["model"], registry=registry)
        for name, service in self._services.items():
            here.labels(name).set_function(partial(_has_device, turns, service))
        changes = Gauge("hwgen_model_changes", "Times that the accelerator changed models.", registry=registry)
        changes.set_function(lambda: turns.changes)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    @property
    def names(self) -> list[str]:
        """Names of the models in the protocol."""
        return list(self._services)

    @property
    def current(self) -> Service:
        """That of the model that has the device."""
        return next((s for s in self if self._turns is not None and s.llm is self._turns.holder), next(iter(self)))

    def of(self, name: str | None) -> Service:
        """That of a model by its name, or the current one; a name that is unknown is refused."""
        if name is None:
            return self.current
        if name not in self._services:
            known = ", ".join(map(repr, self._services))
            text = f"the model {name!r} does not exist; this server has {known}"
            raise ApiError(404, text, code="model_not_found", param="model")
        return self._services[name]

    def text(self) -> bytes:
        """What ``/metrics`` shows: of the server, and of each model."""
        texts = {service.name: service.metrics.text() for service in self}
        if len(texts) == 1:
            return self.metrics.text() + texts[self.names[0]]
        return self.metrics.text() + labelled({name: text.decode() for name, text in texts.items()}, "model")

    # ---- life ----------------------------------------------------------------------------------------------------
    @property
    def failure(self) -> HwgenError | None:
        """Why nothing is answered now."""
        return next((s.scheduler.failure for s in self if s.scheduler.failure is not None), None)

    def on_failure(self, told: Callable[[HwgenError], None]) -> None:
        """Tell when the device failed for good."""
        for service in self:
            service.scheduler.on_failure = told

    def start(self) -> None:
        """Begin to answer."""
        for service in self:
            service.scheduler.start()

    def end(self) -> None:
        """End every answer after the present pass, and take no more."""
        for service in self:
            service.scheduler.close()
