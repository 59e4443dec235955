"""Costs as a JSON file: what was measured once can be simulated again, and edited by hand."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from blocklocal.errors import InputError, unknown
from blocklocal.files import write_text
from blocklocal.simulate.costs import BlockCosts

KEYS = ("blocks", "batch_size", "measured")


@dataclass(frozen=True)
class CostsFile:
    """Blocks, the number of samples of the batch they hold for (None: not said), and how they were measured."""

    blocks: Sequence[BlockCosts]
    batch_size: int | None = None
    measured: dict[str, Any] | None = None


def save_costs(path: Path, costs: CostsFile) -> None:
    """Write {"batch_size": …, "measured": …, "blocks": [{"forward": …, …}, …]}."""
    content = {"batch_size": costs.batch_size, "measured": costs.measured}
    write_text(path, json.dumps({**content, "blocks": [asdict(block) for block in costs.blocks]}, indent=1) + "\n")


def load_costs(path: Path) -> CostsFile:
    """Read what `save_costs` wrote. Only "blocks" is needed, and of a block forward, backward_input, backward_weight.

    Raises InputError for a file that is missing or no such JSON, for unknown or missing keys, and for bad values.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read costs from {path}: {error.strerror}. Give a file that --save-costs wrote."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("blocks"), list) or not content["blocks"]:
        raise InputError(f'{path} must hold an object with a list "blocks" of at least one block.')
    for key in content:
        if key not in KEYS:
            raise InputError(f"{path}: {unknown('key', key, KEYS)}")
    size = content.get("batch_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InputError(f"{path}: batch_size must be a whole number of samples of at least 1, not {size!r}.")
    blocks = [_block(block, f"{path}, block {i}") for i, block in enumerate(content["blocks"])]
    return CostsFile(blocks, size, content.get("measured"))


def _block(values: Any, where: str) -> BlockCosts:
    if not isinstance(values, dict):
        raise InputError(f"{where} must be an object of costs, not {json.dumps(values)}.")
    known = {field.name: field.default is MISSING for field in fields(BlockCosts)}
    for key in values:
        if key not in known:
            raise InputError(f"{where}: {unknown('cost', key, known)}")
    missing = [name for name, needed in known.items() if needed and name not in values]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}: give the seconds for a whole batch.")
    try:
        return BlockCosts(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
