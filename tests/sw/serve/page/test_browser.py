"""The page in a headless Chromium, against a server on the golden device."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs Playwright")
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from hwgen.sw.devices.device import DeviceTimeout
from hwgen.sw.runtime.llm import LLM

from ..conftest import Running, delay, new_service, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

#: Milliseconds that a page may take for what it shows; the machine is shared.
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield context
    context.close()


def opened(context: BrowserContext, running: Running) -> Page:
    page = context.new_page()
    page.goto(running.url)
    return page


def ask(page: Page, text: str, tokens: int) -> None:
    expect(page.get_by_role("status").first).to_have_text("ready")
    if not page.locator("#settings").get_attribute("open"):
        page.get_by_text("Parameters").click()
    page.get_by_label("Longest answer, tokens").fill(str(tokens))
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def slow(running: Running, seconds: float) -> None:
    """Make every pass take this long."""
    delay(running.service.llm.device, lambda: time.sleep(seconds))


def test_chat_again_and_machine(context: BrowserContext, server: Running, alone: LLM) -> None:
    errors: list[str] = []
    page = opened(context, server)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    expected = alone.generate("the cat", max_new_tokens=9, chat=True).text
    ask(page, "the cat", 9)
    answer = page.locator("article.assistant .text")
    expect(page.locator("article.assistant .foot")).to_contain_text("9 tokens")
    assert answer.text_content() == expected
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("article.assistant .foot")).to_contain_text("9 tokens")
    assert answer.text_content() == expected and answer.count() == 1
    expect(page.locator("#runs tbody tr")).to_have_count(1)
    expect(page.locator("#cycles-none")).to_contain_text("without time")
    expect(page.locator("#queue")).to_have_text("0 of 8 run, 0 of 64 wait.")
    page.get_by_text("What the model reads").click()
    expect(page.locator("#tokens span").first).to_be_visible()
    page.reload()
    expect(answer).to_have_text(expected)  # kept in this tab
    assert errors == []


def test_stop(context: BrowserContext, chat_directory: Path) -> None:
    with serving(new_service(chat_directory)) as running:
        slow(running, 0.1)
        page = opened(context, running)
        ask(page, "the cat", 50)
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        running.wait_until(lambda service: len(service.machine.passes()["passes"]) > 1)
        page.keyboard.press("Escape")
        expect(page.locator("article.assistant .foot")).to_contain_text("stopped")
        running.wait_idle()
        assert 0 < len(running.service.machine.passes()["passes"]) < 30
        assert running.service.metrics.registry.get_sample_value("hwgen_cancelled_total") == 1


def test_two_tabs(context: BrowserContext, chat_directory: Path, alone: LLM) -> None:
    """Each has its own conversation and the answer it would have alone; both see both in the machine."""
    with serving(new_service(chat_directory)) as running:
        slow(running, 0.1)
        pages = [opened(context, running) for _ in range(2)]
        for page in pages:
            expect(page.get_by_role("status").first).to_have_text("ready")
            page.get_by_text("Parameters").click()
            page.get_by_label("Longest answer, tokens").fill("20")
        for page, text in zip(pages, ("the cat", "a dog"), strict=True):
            page.get_by_label("Message", exact=True).fill(text)
            page.get_by_label("Message", exact=True).press("Enter")
        for page in pages:
            page.bring_to_front()
            expect(page.locator("#sessions tbody tr")).to_have_count(2)
        for page, text in zip(pages, ("the cat", "a dog"), strict=True):
            expect(page.locator("article.assistant .foot")).to_contain_text("20 tokens")
            assert page.locator("article.assistant .text").text_content() == alone.generate(text, max_new_tokens=20, chat=True).text


def test_failed_device(context: BrowserContext, chat_directory: Path) -> None:
    with serving(new_service(chat_directory, back_off=(600.0,))) as running:  # not opened anew meanwhile

        def fail(timeout: float, look: object = None) -> None:
            raise DeviceTimeout("it hangs")

        running.service.llm.device.wait = fail  # type: ignore[method-assign]
        page = opened(context, running)
        ask(page, "the cat", 9)
        expect(page.locator("article.assistant .foot")).to_contain_text("it hangs")
        expect(page.get_by_role("alert").first).to_contain_text("it hangs")
        expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_api_key(context: BrowserContext, chat_directory: Path) -> None:
    with serving(new_service(chat_directory), key="secret") as running:
        page = opened(context, running)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_text("does not take this key")).to_be_visible()
        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="Go on").click()
        ask(page, "the cat", 3)
        expect(page.locator("article.assistant .foot")).to_contain_text("3 tokens")


def test_narrow(browser: Browser, server: Running) -> None:
    """On a telephone one of chat and machine is shown, and nothing is wider than the screen."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = opened(context, server)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    for view, other in (("Machine", "#chat"), ("Chat", "#machine")):
        page.get_by_role("button", name=view).click()
        expect(page.locator(other)).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()
