"""The documentation site: `nox -s docs` builds it into docs/_build/html."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the times of the tutorials are those of one core
os.environ |= {"NO_COLOR": "1", "COLUMNS": "110"}  # of the commands that tutorials run
for hint in ("The TorchScript type system", "Environment variable TORCH_FORCE", "`torch.jit"):  # MACE's and e3nn's
    warnings.filterwarnings("ignore", message=hint)

import les_plugins

project = "les-plugins"
author = "the les-plugins developers"
copyright = f"2026, {author}"
version = release = les_plugins.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "chemiscope_viewer",
    "formulas",
    "pages_from_code",
    "plain_docstrings",
    "repository_links",
    "self_contained",
]
exclude_patterns = ["_build", "tutorials", "**/generated"]
highlight_language = "none"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 0,
    "write_computation_times": False,  # pages with scripts from elsewhere
    "reset_modules": ("matplotlib",),
}

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "les-plugins"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
linkcheck_ignore = [r"https?://.*"]  # no network where this is built
