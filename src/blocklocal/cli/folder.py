"""The folder that a command writes where none is given."""

import re
from pathlib import Path

from blocklocal.runs.config import Config


def default_folder(config: Config, what: str) -> Path:
    """A folder below runs/ that does not exist yet."""
    named = [name for name in (config.data.data, config.model.model) if name != "auto"]
    parts = [*map(_last_part, named), what, f"seed{config.machine.seed}"]
    base = Path("runs") / "-".join(parts)
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def _last_part(name: str) -> str:
    """Of path/file.py:function or owner/name:configuration, as part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", Path(name).name, flags=re.ASCII)
