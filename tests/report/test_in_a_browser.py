"""Reports in a real browser: Chromium, without a window. Nothing is cut, nothing overlaps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_toys import CONFIG, trained

from mtlcore.study.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
WIDTHS, SCHEMES = (400, 1400), ("light", "dark")

# Texts of SVG charts and cells that leave their chart or their box, where no scroll bar is allowed.
CUT = """() => {
  const found = [];
  const scrolls = (node) => node.closest(".scroll, pre");
  for (const node of document.querySelectorAll("svg text")) {
    const box = node.getBoundingClientRect();
    const svg = node.closest("svg").getBoundingClientRect();
    if (box.left < svg.left - 1 || box.right > svg.right + 1 || box.bottom > svg.bottom + 1 ||
        box.top < svg.top - 1) found.push(`cut in a chart: ${node.textContent}`);
  }
  for (const node of document.querySelectorAll("main *, header *")) {
    if (scrolls(node) || node.closest("svg, .unseen, .skip, thead")) continue;
    const box = node.getBoundingClientRect();
    if (box.width && box.right > document.documentElement.clientWidth + 1)
      found.push(`leaves the page: ${node.tagName} ${node.className}`);
    if (node.clientWidth && node.scrollWidth > node.clientWidth + 1 &&
        getComputedStyle(node).overflowX !== "visible")
      found.push(`cut: ${node.tagName} ${node.className}`);
  }
  for (const node of document.querySelectorAll(".scroll")) {
    if (!node.querySelector(".matrix") && node.scrollWidth > node.clientWidth + 1)
      found.push(`a table that must be scrolled: ${node.getAttribute("aria-label")}`);
  }
  return found;
}"""
OVERLAPS = """() => {
  const found = [];
  const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  for (const svg of document.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")].map((t) => [t, t.getBoundingClientRect()]);
    texts.forEach(([a, box], i) => texts.slice(i + 1).forEach(([b, other]) => {
      if (overlap(box, other)) found.push(`${a.textContent} over ${b.textContent}`);
    }));
  }
  const blocks = [...document.querySelectorAll("section > *, .charts > *, .gallery > *")];
  for (const a of blocks) for (const b of blocks) {
    if (a !== b && a.parentNode === b.parentNode &&
        overlap(a.getBoundingClientRect(), b.getBoundingClientRect()))
      found.push(`${a.className} over ${b.className}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium of the system, or that of playwright."""
    installed = next((path for name in NAMES if (path := shutil.which(name))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: install it with apt, or `playwright install`: {error}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The reports of a run and of a study that is half done."""
    folder = tmp_path_factory.mktemp("reports")
    run = folder / "run.html"
    trained(folder, train__steps=30).report(run)
    (folder / "base.toml").write_text(CONFIG)
    file = folder / "grids.toml"
    file.write_text(
        'config = "base.toml"\nseeds = [0, 1, 2]\n[arms.supervised]\n'
        'set = ["pretext.puzzling.weight=0", "pretext.rotation.weight=0"]\n[arms.puzzling]\n'
        'set = ["pretext.rotation.weight=0"]\n[arms.rotation]\n'
        'set = ["pretext.puzzling.weight=0"]\n'
    )
    study = Study.load(file)
    study.train(arms=["supervised", "puzzling"], say=lambda _: None)
    return {"run": run, "study": study.report(folder / "study.html")}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["run", "study"])
def test_a_report_is_shown_without_an_error_and_nothing_is_cut(
    browser, pages, name: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: console.append(request.url))
    page.goto(pages[name].as_uri())
    if folder := os.environ.get("MTLCORE_SCREENSHOTS"):
        path = Path(folder, f"report-{name}-{width}-{scheme}.png")
        page.screenshot(path=path, full_page=True)
    for closed in page.locator("details").all():
        closed.evaluate("node => { node.open = true; }")
    others = [text for text in console if not text.startswith(("file:", "data:"))]
    assert others == []
    rim = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(rim) == 0
    assert page.evaluate(CUT) == []
    assert page.evaluate(OVERLAPS) == []
    page.close()
