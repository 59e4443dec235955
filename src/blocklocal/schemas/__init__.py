"""What a file of a run folder may hold, and the one place that reads such a file.

    facts = read_json(folder / "data.json", DatasetInfo, what="the data set of a run, as `blocklocal train` writes it")

`kind` is a `msgspec.Struct`, a dataclass or any other type that msgspec checks. Everything wrong with a file (missing,
a folder, a pipe, too large, not UTF-8, no JSON, nested too deeply, a wrong type, a number out of range, a missing or an
unknown key) is an `InputError` that names the file, the key, what stands there and what may. What comes out is trusted.
"""

from blocklocal.schemas.kinds import (
    Name,
    Number,
    Scalar,
    Seconds,
    Setting,
    Text,
    Whole,
)
from blocklocal.schemas.reading import NotJson, check, parse, read_json, read_rows

__all__ = [
    "Name",
    "NotJson",
    "Number",
    "Scalar",
    "Seconds",
    "Setting",
    "Text",
    "Whole",
    "check",
    "parse",
    "read_json",
    "read_rows",
]
