"""What a run keeps beside its weights and settings, read back: facts of its data set, its cut, its result."""

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal.runs.facts import DatasetInfo
from blocklocal.schemas import Whole, read_json, read_rows
from blocklocal.schemas.kinds import MOST_BLOCKS
from blocklocal.schemas.run import Summary

CUTS, FACTS = "cuts.json", "data.json"
MOST_VALUES = 2**26  # numbers in one image: a batch to measure with is 8 GiB then
SUMMARY, CONFUSION = "summary.json", "confusion.json"
TOKENIZER = "tokenizer.json"
Cuts = Annotated[list[Whole], Meta(min_length=1, max_length=MOST_BLOCKS)]


def load_facts(folder: Path) -> DatasetInfo:
    """What a run knows of its data set.

    Raises:
        InputError: that is missing, damaged, or cannot be true of images.
    """
    file = folder / FACTS
    facts = read_json(
        file, DatasetInfo, what="the classes, size and pixel statistics of a data set, as a run writes them"
    )
    for name in ("mean", "std"):
        if len(getattr(facts, name)) != facts.channels:
            raise InputError(f"{file}: {name} must have {facts.channels} entries, one per channel.")
    if not all(value > 0 for value in facts.std):
        raise InputError(f"{file}: std must be above 0 in every channel, not {list(facts.std)[:9]}.")
    if facts.channels * facts.height * facts.width > MOST_VALUES:
        size = f"{facts.channels}x{facts.height}x{facts.width}"
        raise InputError(f"{file}: images of {size} numbers are more than this library trains on.")
    return facts


def load_cuts(folder: Path) -> list[int] | None:
    """Where the blocks of a run start, where that was measured; else None. `split` looks whether they are a cut."""
    file = folder / CUTS
    if not is_there(file):
        return None
    what = "the numbers of the pieces where blocks start, as a run with --balance time writes them"
    return read_json(file, Cuts, what=what)


def read_summary(folder: Path) -> dict[str, Any]:
    """The result of a finished run; how many `epochs` it has had tells whether all are done.

    Raises:
        InputError: the run has no result that can be read.
    """
    file, what = folder / SUMMARY, "a run's result: remove the file, and --resume finishes the run again"
    summary = read_rows(file, Summary, what=what)
    if summary.get("epochs") is None:
        raise InputError(f"{file}: epochs is missing. Expected {what}.")
    return summary
