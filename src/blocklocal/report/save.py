"""A figure as files: PNG to look at, SVG to enlarge; the same figure gives the same bytes."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal._common.written import SIGNATURE, write_file
from blocklocal.report.drawing import own_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def save_named(figure: "Figure", place: Path, *, overwrite: bool = False) -> list[Path]:
    """Write `place`.png and `place`.svg, names that the user gave, and return their paths; see `written`."""
    paths = picture_paths(place)
    for path, picture in zip(paths, _pictures(figure, place.name, {"Creator": SIGNATURE}, SIGNATURE), strict=True):
        write_file(path, picture, overwrite=overwrite)
    return paths


def picture_paths(place: Path) -> list[Path]:
    """The files of a picture; a name that ends in .png or .svg already stands for both."""
    place = place.with_suffix("") if place.suffix.lower() in (".png", ".svg") else place
    return [place.parent / f"{place.name}.png", place.parent / f"{place.name}.svg"]


def save_figure(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write `folder/name.png` and `folder/name.svg`, without dates and signature, and return their paths."""
    paths = picture_paths(folder / name)
    for path, picture in zip(paths, _pictures(figure, name, {}, None), strict=True):
        path.write_bytes(picture)
    return paths


@own_style()
def _pictures(figure: "Figure", name: str, about: dict[str, str], software: str | None) -> tuple[bytes, bytes]:
    """The PNG and the SVG, with notes on their origin in the files."""
    import matplotlib

    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": software})
    # A fixed salt for the ids of shapes; text stays text, which keeps the file small and can be searched.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(svg, format="svg", metadata={"Date": None, **about})
    return png.getvalue(), svg.getvalue()
