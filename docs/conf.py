"""Sphinx builds the site from the Markdown pages of docs/: `make docs`.

The pages stay plain Markdown, as GitHub shows them. So the navigation is not a directive: it is
read from the lists of links in index.md. Links to files outside docs/ become downloads.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

project = "mtlcore"
html_title = "mtlcore"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]

extensions = ["myst_parser"]
nitpicky = True
myst_heading_anchors = 4

COPIES = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages that have the text of a file in the folder above."""
PAGES_OUTSIDE = {
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
}

ENTRY = re.compile(r"^- \[([^]]+)\]\(([^)#]+)\.md\)", re.M)
SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.M | re.S)
OUTSIDE = re.compile(r"\[([^]]+)\]\(((?:\.\./)+[^)#]+\.md)(?:#[^)]*)?\)")


def toctrees(index: str) -> str:
    """Return one hidden table of contents for each section of the home page."""
    parts = []
    for title, body in SECTION.findall(index):
        pages = [f"{label} <{page}>" for label, page in ENTRY.findall(body)]
        if pages:
            head = f"```{{toctree}}\n:hidden:\n:caption: {title}\n"
            parts.append("\n".join([head, *pages, "```\n"]))
    return "\n".join(parts)


def link_outside(page: Path, link: re.Match[str]) -> str:
    """Return a link to a Markdown file as the site has it: a page, or a download."""
    text, target = link.groups()
    if (page.parent / target).resolve().is_relative_to(DOCS):
        return link[0]
    if target in PAGES_OUTSIDE:
        return f"[{text}]({PAGES_OUTSIDE[target]})"
    return f"{{download}}`{text.strip('`')} <{target}>`"


def read_source(_: Sphinx, name: str, source: list[str]) -> None:
    """Complete a page before it is parsed."""
    if name in COPIES:
        text = (ROOT / COPIES[name]).read_text(encoding="utf-8")
        source[0] = text.replace("](docs/", "](").replace("](README.md", "](index.md")
    page = DOCS / f"{name}.md"
    source[0] = OUTSIDE.sub(lambda link: link_outside(page, link), source[0])
    if name == "index":
        source[0] += "\n" + toctrees(source[0])


def setup(app: Sphinx) -> None:
    """Register the hook: Sphinx calls this."""
    app.connect("source-read", read_source)
