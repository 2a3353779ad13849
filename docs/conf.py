"""Sphinx: `make docs`. Notebooks are executed by the tests, not here."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "mastra_nb"
author = "the mastra_nb authors"
copyright = "the mastra_nb authors, Apache-2.0"
version = release = installed_version("mastra-nb")

extensions = ["myst_nb"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"mastra_nb {release}"
