"""A table as plain text, for the screen: names on the left, figures on the right."""

from collections.abc import Sequence


def table(names: Sequence[str], columns: dict[str, list[str]], what: str = "block") -> list[str]:
    """A line per name, with its cell of every column.

    Args:
        what: the names are of.
    """
    body = [[heading, *cells] for heading, cells in columns.items()]
    widths = [max(map(len, column)) for column in body]
    first = max(map(len, [what, *names]))
    found = []
    for i, name in enumerate([what, *names]):
        cells = [column[i].rjust(width) for column, width in zip(body, widths, strict=True)]
        found.append("  ".join([name.ljust(first), *cells]))
    return found
