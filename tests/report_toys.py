"""What the tests of reports share: a tiny run, and a page as its reader finds it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import mtlcore

DOTS = Path(__file__).parent / "dots.py"
CONFIG = f"""
plugins = ["{DOTS}"]
[encoder]
name = "resnet_small"
width = 2
depths = [1, 1]
[task.quarter]
name = "classification"
by = ["color"]
[pretext.puzzling]
grid = 2
[pretext.rotation]
[data.dots]
n = 100
[input]
size = 16
batch_size = 16
validation = 0.25
[schedule]
warmup = 0
[train]
steps = 4
log_every = 1
eval_every = 2
"""


def trained(folder: Path, text: str = CONFIG, **settings: object) -> mtlcore.Run:
    """A run of the configuration with these settings (dots in keys as "__")."""
    file = folder / "toy.toml"
    file.write_text(text)
    overrides = {key.replace("__", "."): value for key, value in settings.items()}
    return mtlcore.train(file, folder / "run", overrides=overrides, progress=False)


class Found(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(file: Path) -> Found:
    """The parsed page of a file."""
    return Found(file.read_text(encoding="utf-8"))
