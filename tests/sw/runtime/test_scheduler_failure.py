"""What becomes of answers when one of them, or the device, fails."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.scheduler import FAILED_PASSES, Scheduler
from hwgen.weights import ModelWeights

from ..conftest import CONFIG
from .test_scheduler import Client, alone, generation, new_engine


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return compile_model(CONFIG, weights)


@dataclass
class Faulty:
    """Clients of a scheduler in its thread, and a device whose ``wait`` fails from the second pass on."""

    image: Image
    error: Exception
    count: int = 3
    ends: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.engine = new_engine(self.image)
        self.clients = [Client(generation(self.engine, 5, 6, seed)) for seed in range(self.count)]
        for client in self.clients:
            client.job.on_end = lambda e, c=client: (c.ends.append(e), self.ends.release())[0]  # type: ignore[misc]
        wait, passes = self.engine.device.wait, iter(range(1000))

        def fail(timeout: float, look: object = None) -> bool:
            if next(passes) > 0:
                raise self.error
            return wait(timeout)

        self.engine.device.wait = fail  # type: ignore[method-assign]

    def run(self, scheduler: Scheduler) -> None:
        for client in self.clients:
            scheduler.submit(client.job)
        scheduler.start()
        for _ in self.clients:
            assert self.ends.acquire(timeout=60)


@pytest.mark.parametrize("error", [DeviceTimeout("it hangs"), ZeroDivisionError("a bug"), HwgenError("device", "a port", "")])
def test_a_device_that_failed_is_opened_anew(image: Image, error: Exception) -> None:
    """What had a session ends with the error, what waited is answered on the new device, and the exact answer comes later too."""
    faulty = Faulty(image, error, 5)
    attempts: list[int] = []

    def reopen() -> tuple[Engine, None]:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise OSError("not yet")
        return new_engine(image), None

    scheduler = Scheduler(faulty.engine, max_running=1, reopen=reopen, back_off=(0, 0.01, 0.02, 0.03))
    faulty.run(scheduler)
    hurt = FAILED_PASSES if isinstance(error, HwgenError) and not isinstance(error, DeviceTimeout) else 1
    for seed, client in enumerate(faulty.clients):
        end = client.ends[0]
        if seed < hurt:
            assert isinstance(end, HwgenError) and end.kind == "device"
        else:
            assert end is None and client.tokens == alone(image, 5, 6, seed)
    assert len(attempts) == 3 and scheduler.reopened == 1 and scheduler.failure is None
    scheduler.close()


@pytest.mark.parametrize("reopens", [False, True])
def test_a_dead_device_ends_every_job(image: Image, reopens: bool) -> None:
    faulty = Faulty(image, DeviceTimeout("it hangs"))

    def reopen() -> tuple[Engine, None]:
        raise HwgenError("device", "still dead", "")

    told: list[HwgenError] = []
    ended = threading.Event()
    scheduler = Scheduler(
        faulty.engine, reopen=reopen if reopens else None, back_off=(0, 0), on_failure=lambda e: (told.append(e), ended.set())[0]
    )
    faulty.run(scheduler)
    assert all(isinstance(c.ends[0], HwgenError) and c.ends[0].kind == "device" for c in faulty.clients)
    assert ended.wait(60) and scheduler.failure is told[0] and ("still dead" if reopens else "it hangs") in told[0].message
    with pytest.raises(HwgenError):
        scheduler.submit(Client(generation(faulty.engine, 1, 1, 1)).job)
    scheduler.close()


def test_a_device_that_opens_and_never_works(image: Image) -> None:
    """It is not opened for ever."""
    faulty = Faulty(image, DeviceTimeout("it hangs"), 6)
    opened: list[Engine] = []

    def reopen() -> tuple[Engine, None]:
        opened.append(new_engine(image))
        opened[-1].device.wait = faulty.engine.device.wait  # type: ignore[method-assign]
        return opened[-1], None

    scheduler = Scheduler(faulty.engine, max_running=1, reopen=reopen, back_off=(0, 0, 0))
    faulty.run(scheduler)
    assert len(opened) == 3 and scheduler.failure is not None and all(client.ends[0] is not None for client in faulty.clients)
    scheduler.close()


def test_an_exception_ends_its_own_job(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    engine = new_engine(image)
    scheduler = Scheduler(engine)
    clients = [Client(generation(engine, 5, 6, seed)) for seed in range(3)]
    for client in clients:
        scheduler.submit(client.job)

    def fail(*arguments: object) -> int:
        raise ZeroDivisionError("a bug")

    clients[1].generation._sampler.choose = fail  # type: ignore[method-assign]
    while scheduler.step():
        pass
    end = clients[1].ends[0]
    assert isinstance(end, HwgenError) and end.kind == "internal" and "a bug" in end.message
    assert "Traceback" in capsys.readouterr().err
    for seed in (0, 2):
        assert clients[seed].ends == [None] and clients[seed].tokens == alone(image, 5, 6, seed)
    assert engine.pages.free == engine.image.pages


def test_closed_while_a_device_is_opened_anew(image: Image) -> None:
    faulty = Faulty(image, DeviceTimeout("it hangs"))
    scheduler = Scheduler(faulty.engine, max_running=1, reopen=lambda: (faulty.engine, None), back_off=(60,))
    for client in faulty.clients:
        scheduler.submit(client.job)
    scheduler.start()
    assert faulty.ends.acquire(timeout=60) and scheduler.failure is not None
    scheduler.close()
    assert all(len(client.ends) == 1 and client.ends[0] is not None for client in faulty.clients)
