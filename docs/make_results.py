"""`docs/results.md`, re-made from the stored rows: python docs/make_results.py docs/results (`make results`)

docs/results/EXPERIMENT/results.json    the rows, copied from the folder of `blocklocal reproduce`
docs/results/EXPERIMENT/notes.md        the command that made them, and what people should know; written by hand
docs/results/EXPERIMENT/*.png, *.svg    made here
docs/results.md                         made here: notes, tables and figures of every experiment
"""

import json
import sys
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.files import write_text
from experiments.experiment import EXPERIMENTS, Row

INTRODUCTION = """# The paper's experiments, re-made

Made by `make results` from the rows in `docs/results/`; only the words are written by hand. Each experiment is one
command, which goes on where it was stopped, and whose folder holds the same tables and figures. Backprop and the frozen
control (the same network with all blocks but the last left at random) were measured by the same command; ± is the
sample deviation over seeds. The paper is Kappel et al., arXiv 2305.14974; its Supplement, where its epochs and τ stand,
was not at hand.
"""


def read_rows(folder: Path) -> list[Row]:
    """The stored rows of one experiment. Raises InputError where they cannot be read."""
    path = folder / "results.json"
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy results.json from the experiment's folder.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "job" in row for row in rows):
        raise InputError(f"{path} must hold a list of rows, each with a job: copy results.json again.")
    return rows


def _read_notes(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): write there which command made the rows.") from error


def make_page(results: Path) -> str:
    """The page's text; the figures are written beside the rows."""
    parts = [INTRODUCTION]
    for name in ("table1", "figure3", "figure2", "accuracy"):
        folder = results / name
        if not folder.is_dir():
            continue
        for stale in (*folder.glob("*.png"), *folder.glob("*.svg")):
            stale.unlink()
        tables = EXPERIMENTS.get(name).write(read_rows(folder), folder)
        notes = _read_notes(folder / "notes.md")
        pictures = "\n\n".join(
            f"![{png.stem}]({results.name}/{name}/{png.name})" for png in sorted(folder.glob("*.png"))
        )
        parts.append(f"{notes}\n\n{tables.strip()}\n\n{pictures}\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python docs/make_results.py docs/results", file=sys.stderr)
        return 2
    results = Path(arguments[0])
    try:
        write_text(results.with_suffix(".md"), make_page(results))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(results.with_suffix(".md"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
