"""A board as the front knows it: whether it answers, which models it has, and what it is busy with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

from .sent_prompts import SentPrompts

__all__ = ["BoardLink", "Watch"]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How boards are looked after, in seconds."""

    #: Between two questions for its health.
    interval: float = 1.0
    #: Until an answer to that must have come, and until a connection must be made.
    patience: float = 5.0
    #: Questions without an answer, one behind the other, after which a board counts as lost.
    misses: int = 2
    #: Between two questions for its models.
    models: float = 10.0


@dataclass(eq=False)
class BoardLink:
    """One board. ``address`` is what the user named it, and its name everywhere."""

    address: str
    url: str
    #: It answers, and its accelerator works.
    up: bool = False
    #: Why it is not up.
    reason: str = "not asked yet"
    #: What it says of its models, by name.
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Requests that it is asked now.
    busy: int = 0
    sent: SentPrompts = field(default_factory=SentPrompts)
    #: Set when the board is lost with all that it was asked; a new one for the time after that.
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def lose(self, reason: str) -> None:
        """It answers no more: what it was asked is lost, and what it kept."""
        self.up, self.reason = False, reason
        self.sent.clear()
        self.lost.set()
        self.lost = asyncio.Event()

    async def watch(self, client: httpx.AsyncClient, timing: Watch, headers: dict[str, str]) -> None:
        """Ask for its health, for ever."""
        missed, asked = 0, float("-inf")
        clock = asyncio.get_running_loop().time
        while True:
            try:
                response = await client.get(f"{self.url}/health", timeout=timing.patience)
                missed = 0
                if response.status_code != 200:  # it says itself what becomes of the answers that run
                    self.up, self.reason, asked = False, f"its accelerator failed (status {response.status_code})", float("-inf")
                elif not self.up or clock() - asked >= timing.models:
                    await self._ask_models(client, timing, headers)
                    asked = clock()
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                missed += 1
                if missed == timing.misses or not self.up:
                    self.lose(f"it does not answer: {type(error).__name__}")
            await asyncio.sleep(timing.interval)

    async def _ask_models(self, client: httpx.AsyncClient, timing: Watch, headers: dict[str, str]) -> None:
        response = await client.get(f"{self.url}/v1/models", headers=headers, timeout=timing.patience)
        if response.status_code != 200:
            self.up, self.reason = False, f"it refuses to list its models (status {response.status_code}): check the API key"
            return
        self.models = {card["id"]: card for card in response.json()["data"]}
        self.up, self.reason = True, ""
