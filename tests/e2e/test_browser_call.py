"""A person in a browser calls the example agent: real WebRTC, a real microphone file, a real page."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.harness.programs import running, says, serves
from e2e.harness.server import LiveKitServer, free_ports
from e2e.harness.speech import Speech

ROOT = Path(__file__).parents[2]
WEB = ROOT / "examples" / "web"
PATIENCE_MS = 40_000
"""For what a person would see within seconds; the first call of an agent loads its models."""

SCREENSHOTS = os.environ.get("E2E_SCREENSHOTS")


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("this test drives Chromium: apt-get install chromium, or your system's package")
    return found


@pytest.fixture(scope="module")
def built_page() -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.fail("the page is built with npm: install Node.js 18 or later")
    subprocess.run([npm, "ci", "--silent"], cwd=WEB, check=True)
    subprocess.run([npm, "run", "--silent", "check"], cwd=WEB, check=True)
    subprocess.run([npm, "run", "--silent", "build"], cwd=WEB, check=True)


@contextmanager
def browser(executable: str, microphone: Path) -> Iterator[Any]:
    """A page of a browser whose microphone is a WAV file, played once it is switched on."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=executable,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}%noloop",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        try:
            page = launched.new_page(viewport={"width": 520, "height": 860}, device_scale_factor=2)
            page.set_default_timeout(PATIENCE_MS)
            yield page
        finally:
            launched.close()


def shoot(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


@pytest.mark.real_time
async def test_a_person_calls_asks_hears_the_answer_and_hangs_up(
    tmp_path: Path, speech: Speech, chromium: str, built_page: None
) -> None:
    words = await speech.say("do you know what time it is", after=1.0)

    # the browser is driven synchronously, and the agent runs elsewhere
    await asyncio.to_thread(_call, tmp_path, words, chromium)


def _call(tmp_path: Path, words: Path, chromium: str) -> None:
    # a server of its own: an agent without a name goes to every room
    with LiveKitServer(Path(os.environ["LIVEKIT_SERVER"]), tmp_path) as server:
        port = free_ports(1)[0]
        # dev: takes calls however busy the machine is
        command = [str(ROOT / "examples" / "basic_agent.py"), "dev", "--no-reload"]
        agent = running(command, server, tmp_path / "agent.log")
        pages = running([str(WEB / "serve.py"), "--port", str(port)], server, tmp_path / "web.log")
        with agent, pages, browser(chromium, words) as page:
            says(tmp_path / "agent.log", "registered worker")
            serves(f"http://127.0.0.1:{port}/")
            page.goto(f"http://127.0.0.1:{port}/")
            _talk(page)


def _talk(page: Any) -> None:
    from playwright.sync_api import expect

    main, transcript = page.locator("main"), page.locator("#transcript")
    call, mute = page.locator("#call"), page.locator("#mute")
    expect(call).to_have_text("Call")
    mute.click()  # the caller speaks when they have been greeted, however long that takes
    call.click()
    expect(main).to_have_attribute("data-phase", "call", timeout=PATIENCE_MS)
    expect(transcript.locator("li.agent").first).to_contain_text(
        "How can I help you", timeout=PATIENCE_MS
    )
    expect(main).to_have_attribute("data-state", "listening", timeout=PATIENCE_MS)
    expect(mute).to_have_text("Unmute")
    mute.click()
    expect(transcript.locator("li.caller:not(.interim)").first).to_contain_text(
        "time", timeout=PATIENCE_MS
    )
    expect(transcript.locator("li.agent").nth(1)).to_contain_text(
        re.compile(r"It is \d\d:\d\d"), timeout=PATIENCE_MS
    )
    expect(main).to_have_attribute("data-state", "listening", timeout=PATIENCE_MS)
    shoot(page, "call")
    page.get_by_role("textbox").fill("thank you")
    page.keyboard.press("Enter")
    expect(transcript.locator("li.agent").nth(2)).to_contain_text("welcome", timeout=PATIENCE_MS)
    call.click()
    expect(main).to_have_attribute("data-phase", "ended", timeout=PATIENCE_MS)
    note = page.locator("#note").inner_text()
    closed = re.search(r"closed and left within ([\d.]+) s", note)
    assert closed is not None, note
    assert float(closed[1]) < 9.5, note
    expect(call).to_have_text("Call")
    shoot(page, "ended")
