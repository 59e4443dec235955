"""The documentation site: `make docs` builds it into docs/_build, with warnings as errors."""

import re

import blocklocal

project = "blocklocal"
author = "the blocklocal authors"
release = version = blocklocal.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "results/**"]
html_theme = "furo"
html_title = "blocklocal"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
default_role = "code"
nitpicky = False


def plain_paths(app, docname, source):
    """A link to a file outside docs/ becomes its path: the site does not hold that file."""
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", r"\1 (`\2`)", source[0])


def indented_examples(app, what, name, obj, options, lines):
    """Docstrings show code by indenting it. reStructuredText wants `::` in front, and a blank line on both sides."""
    made: list[str] = []
    inside = False
    for line in lines:
        deeper = line.startswith("    ")
        if deeper and not inside and not (made and made[-1].startswith((":", "..", "*", "-"))):
            made += ["", "::", ""]
        elif inside and line.strip() and not deeper:
            made.append("")
        inside = deeper or (inside and not line.strip())
        made.append(line if deeper else re.sub(r"\|(\w+)\|", r"\\|\1\\|", line))
    lines[:] = made


def setup(app):
    app.connect("source-read", plain_paths)
    app.connect("autodoc-process-docstring", indented_examples)
