"""The page docs/responsible-use.md, as HTML that the service shows."""

from __future__ import annotations

from markdown_it import MarkdownIt

from ..evaluation.responsible_use import responsible_use

FRAME = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Responsible use</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 44rem; margin: 0 auto; padding: 1.25rem; }}
h1, h2 {{ line-height: 1.25; }}
h2 {{ margin-top: 2rem; }}
code {{ overflow-wrap: anywhere; }}
</style>
<main>
<p><a href="./">Back to the model</a></p>
{body}
</main>
</html>
"""


def responsible_use_page() -> str:
    """Return the page."""
    body = MarkdownIt().enable("table").render(responsible_use())
    return FRAME.format(body=body)
