"""The documentation site: `make docs` builds it into docs/_build, with warnings as errors."""

import os
import re
import subprocess
import sys

import blocklocal

project = "blocklocal"
author = "the blocklocal authors"
release = version = blocklocal.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "results/**"]
html_theme = "furo"
html_title = "blocklocal"
html_show_copyright = False
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


def printed_help(app, docname, source):
    """`<!-- help: train -->` becomes what `blocklocal train --help` prints: the page cannot fall behind the program."""

    def printed(found: re.Match) -> str:
        command = [sys.executable, "-m", "blocklocal", found[1], "--help"]
        settings = {**os.environ, "COLUMNS": "90", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
        text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=settings).stdout
        return f"```text\n{text.rstrip()}\n```"

    source[0] = re.sub(r"^<!-- help: (\w+) -->$", printed, source[0], flags=re.MULTILINE)


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
    app.connect("source-read", printed_help)
    app.connect("autodoc-process-docstring", indented_examples)
