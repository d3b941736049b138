"""The page of `mtl serve` in a real browser: Chromium, without a window."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from serve_toys import Halves, encoded, image, png, predictor

from mtlcore.serve import Limits, create_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
WIDTHS, SCHEMES = (400, 1400), ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium of the system, or that of playwright."""
    installed = next((path for name in NAMES if (path := shutil.which(name))), None)
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(
                executable_path=installed, args=["--no-sandbox", *camera]
            )
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: install it with apt, or `playwright install`: {error}")
        yield found
        found.close()


@contextmanager
def served(detector=None, limits: Limits | None = None) -> Iterator[str]:
    """Serve in a thread of this process -> the URL."""
    app = create_app(predictor(detector), {"run": "toy run"}, limits)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        pass
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Opened:
    """One page, and what its console said."""

    def __init__(self, browser, url: str, **options) -> None:
        self.page = browser.new_page(**options)
        self.console: list[str] = []
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.goto(url)

    def choose(self, *files: tuple[str, bytes]) -> None:
        uploads = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
        self.page.set_input_files("#file", uploads)

    def cards(self, n: int):
        """Wait until n answers are shown."""
        sync_api.expect(self.page.locator(".card")).to_have_count(n)
        sync_api.expect(self.page.locator("#state")).not_to_contain_text("Predicting")
        return self.page.locator(".card")

    def screenshot(self, name: str) -> None:
        """Keep a screenshot if somebody wants to look at it."""
        if folder := os.environ.get("MTLCORE_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_answers_are_shown_without_an_error_and_nothing_is_cut(
    browser, width: int, scheme: str
) -> None:
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with served() as url:
        opened = Opened(browser, url, **options)
        opened.choose(("first.png", png(0, 300, 200)), ("second.png", png(1, 200, 300)))
        cards = opened.cards(2)
        opened.screenshot(f"answers-{width}-{scheme}")

        (expected,) = predictor()([image(1, 200, 300)])
        newest = cards.first
        assert "second.png" in newest.inner_text()
        assert "ms on the server" in newest.inner_text()
        label = expected.answers["quarter"]
        bars = newest.locator("[aria-label=quarter] li")
        assert bars.count() == 4
        assert label["label"] in bars.first.inner_text()
        assert f"{100 * label['probability']:.1f} %" in bars.first.inner_text()
        assert newest.locator("[aria-label=looks] li").count() == 3
        yaw = f"{expected.answers['pose']['yaw']:.1f}°"
        assert yaw in newest.locator("[aria-label=pose]").inner_text()
        assert newest.locator("svg line").count() == 3
        assert "dark rim" in newest.locator("figcaption").inner_text()

        opened.page.get_by_text("About this model").click()
        rim = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert opened.page.evaluate(rim) == 0
        assert opened.console == []
        opened.page.close()


def test_boxes_of_a_detector_are_drawn_and_numbered(browser) -> None:
    with served(Halves()) as url:
        opened = Opened(browser, url)
        opened.choose(("a.png", png(0, 300, 200)))
        card = opened.cards(1).first
        opened.screenshot("boxes")
        assert card.locator("svg text").all_text_contents() == ["1", "2"]
        assert card.locator("svg rect").count() == 4  # each with its border
        assert "Region 2 of 2, score 0.60" in card.inner_text()
        assert opened.console == []
        opened.page.close()


def test_a_file_that_is_no_image_shows_the_reason(browser) -> None:
    with served(limits=Limits(max_bytes=20_000)) as url:
        opened = Opened(browser, url)
        opened.choose(("text.png", b"no image"), ("large.png", bytes(30_000)))
        cards = opened.cards(2)
        opened.screenshot("errors")
        assert "text.png is not a readable image" in cards.last.inner_text()
        assert "expected at most 20 kB" in cards.first.inner_text()
        opened.page.close()


def test_a_name_is_shown_as_text(browser) -> None:
    with served() as url:
        opened = Opened(browser, url)
        opened.choose(("<img src=x onerror=alert(1)>.png", png()))
        assert "<img src=x" in opened.cards(1).first.inner_text()
        assert opened.console == []
        opened.page.close()


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_images_can_be_pasted_and_dropped(browser, event: str) -> None:
    data = list(encoded(image(2)))
    script = f"""(bytes) => {{
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(bytes)], "own.png", {{type: "image/png"}}));
        const event = "{event}" === "paste"
            ? new ClipboardEvent("paste", {{clipboardData: files, bubbles: true}})
            : new DragEvent("drop", {{dataTransfer: files, bubbles: true}});
        document.body.dispatchEvent(event);
    }}"""
    with served() as url:
        opened = Opened(browser, url)
        opened.page.evaluate(script, data)
        assert "own.png" in opened.cards(1).first.inner_text()
        assert opened.console == []
        opened.page.close()


def test_the_camera_takes_a_photo(browser) -> None:
    with served() as url:
        opened = Opened(browser, url)
        opened.page.get_by_role("button", name="Camera").click()
        opened.page.wait_for_timeout(1000)
        opened.screenshot("camera")
        opened.page.get_by_role("button", name="Take the photo").click()
        assert "camera.jpg" in opened.cards(1).first.inner_text()
        assert opened.console == []
        opened.page.close()


def test_the_page_works_with_the_keyboard_and_links_to_responsible_use(browser) -> None:
    with served() as url:
        opened = Opened(browser, url)
        opened.page.keyboard.press("Tab")
        assert opened.page.evaluate("document.activeElement.id") == "file"
        opened.page.get_by_text("What the answers say").click()
        opened.page.get_by_role("heading", name="Responsible use").wait_for()
        opened.screenshot("responsible-use")
        assert opened.console == []
        opened.page.close()
