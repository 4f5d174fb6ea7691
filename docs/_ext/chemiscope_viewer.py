"""Puts chemiscope's viewer beside the pages of `_static/models`, which hold data alone: it is 3 MB and not ours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.util import logging

from les_plugins.errors import HostError
from les_plugins.plots.viewer import LIBRARY, library


def _copy(app: Any, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "models"
    try:
        shutil.copyfile(library(), folder / LIBRARY)
    except HostError as error:
        logging.getLogger(__name__).warning("interactive pictures of models will be empty: %s", error)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True}
