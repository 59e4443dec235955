"""The file that a process appends its timeline to, and the clock that it counts from."""

import json
import time
from pathlib import Path
from typing import Any

from blocklocal._common.files import cut_half_line


class TimelineFile:
    """JSON lines. The first one says who records, and from when.

    Args:
        path: None to write nothing.
        process: what is said of the process.
    """

    def __init__(self, path: Path | None, process: dict[str, Any] | None = None):
        self._file = None
        if path is not None:
            path.parent.mkdir(exist_ok=True)  # never the run folder again, where it is gone
            cut_half_line(path)
            self._file = path.open("a", buffering=1)
        self._clock, start = time.perf_counter(), time.time()
        self.write({"event": "process", **(process or {}), "start": start})

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._clock

    def write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
