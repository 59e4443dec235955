"""A figure as files: PNG to look at, SVG to enlarge; the same figure gives the same bytes."""

from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal.report.drawing import own_style
from blocklocal.written import SIGNATURE, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


@own_style()
def save_named(figure: "Figure", place: Path, *, overwrite: bool = False) -> list[Path]:
    """Write `place`.png and `place`.svg, names that the user gave, and return their paths; see `written`."""
    import io

    import matplotlib

    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": SIGNATURE})
    with matplotlib.rc_context({"svg.hashsalt": place.name, "svg.fonttype": "none"}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": SIGNATURE})
    for path, picture in zip(picture_paths(place), (png, svg), strict=True):
        write_file(path, picture.getvalue(), overwrite=overwrite)
    return picture_paths(place)


def picture_paths(place: Path) -> list[Path]:
    return [place.parent / f"{place.name}.png", place.parent / f"{place.name}.svg"]


@own_style()
def save_figure(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write `folder/name.png` and `folder/name.svg`, without dates, and return their paths."""
    import matplotlib

    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    figure.savefig(paths[0], format="png", dpi=DPI, metadata={"Software": None})
    # A fixed salt for the ids of shapes; text stays text, which keeps the file small and can be searched.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(paths[1], format="svg", metadata={"Date": None})
    return paths
