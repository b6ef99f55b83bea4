"""Sphinx: Markdown pages, the furo theme, no network.  `python3 dev.py docs` builds docs/_build/html."""

from __future__ import annotations

import moorage

project = "Moorage"
author = "The Moorage developers"
copyright = author  # noqa: A001  Sphinx's name
version = release = moorage.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "Moorage"
# Nothing is loaded from elsewhere, so that the site can be read without a network.
html_theme_options = {"footer_icons": []}
