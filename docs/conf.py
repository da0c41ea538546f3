"""How Sphinx builds these pages: make docs."""

project = "kdns"
copyright = "the kdns authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "kdns"
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["conf.py"]
# Pages of the checkout that are not among these are reached from the README.
suppress_warnings = ["myst.xref_missing"]
