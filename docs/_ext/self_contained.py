"""Warns of pages that load scripts, styles or images from elsewhere: the site has to work without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

_FOREIGN = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="((?:https?:)?//[^"]+)"'
    r'|<link\b(?=[^>]*\brel="(?:stylesheet|preload|icon)")[^>]*\bhref="((?:https?:)?//[^"]+)"'
)


def foreign(html: str) -> list[str]:
    """Addresses outside of the site that a browser loads with a page; links that a reader may follow do not count."""
    return [first or second for first, second in _FOREIGN.findall(html)]


def _check(app: Any, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    for page in sorted(Path(app.outdir).rglob("*.html")):
        for address in foreign(page.read_text(encoding="utf-8")):
            logging.getLogger(__name__).warning("%s loads %s", page.relative_to(app.outdir), address)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True}
