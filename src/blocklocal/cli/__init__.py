"""The command line: `blocklocal COMMAND …`."""

from blocklocal.cli.main import main

__all__ = ["main"]
