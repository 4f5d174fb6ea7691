"""Links to files of the repository outside docs/: checked, and shown as paths. The site holds no copy of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\[([^\]\n]+)\]\((\.\./[^)\s#]*)(?:#[^)\s]*)?\)")
_logger = logging.getLogger(__name__)


def _outside(app: Any, name: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(name))

    def shown(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / match[2]))
        if target.is_relative_to(app.srcdir):
            return match[0]
        if not target.exists():
            _logger.warning("%s: %s does not exist", name, match[2], location=name)
        text, path = match[1], target.relative_to(ROOT).as_posix()
        return f"`{path}`" if text.strip("`").endswith(target.name) else f"{text} (`{path}`)"

    source[0] = _LINK.sub(shown, source[0])


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _outside)
    return {"parallel_read_safe": True}
