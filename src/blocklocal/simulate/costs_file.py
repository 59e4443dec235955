"""Costs as a JSON file: what was measured once can be simulated again, and edited by hand."""

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.written import signed_json, write_file
from blocklocal.schemas import Number, Scalar, Text, read_json
from blocklocal.simulate.costs import BlockCosts

WHAT = 'an object with a list "blocks" of at least one block, as --save-costs writes it'
MOST_BLOCKS = 2_000  # dealing them out over devices takes time that grows with their square


@dataclass(frozen=True)
class CostsFile:
    """Costs of blocks, as a file has them.

    Attributes:
        batch_size: the number of samples of the batch they hold for; None where that is not known.
        measured: how they were measured.
    """

    blocks: Sequence[BlockCosts]
    batch_size: int | None = None
    measured: dict[str, Any] | None = None


@dataclass(frozen=True)
class _File:
    """The content of the file."""

    blocks: Annotated[list[dict[Text, Number | None]], Meta(min_length=1, max_length=MOST_BLOCKS)]
    batch_size: Annotated[int, Meta(ge=1, le=10**12)] | None = None
    measured: dict[Text, Scalar] | None = None
    written_by: Text | None = None


def save_costs(path: Path, costs: CostsFile, *, overwrite: bool = False) -> None:
    """Write {"batch_size": …, "measured": …, "blocks": [{"forward": …, …}, …]}.

    Args:
        overwrite: also a file that is not ours.
    """
    content: dict[str, Any] = {"batch_size": costs.batch_size, "measured": costs.measured}
    content |= {"blocks": [asdict(block) for block in costs.blocks]}
    write_file(path, signed_json(content, indent=1), overwrite=overwrite)


def load_costs(path: Path) -> CostsFile:
    """Read what `save_costs` wrote. Only "blocks" is needed, and of a block forward, backward_input, backward_weight.

    Raises:
        InputError: the file is missing or no such JSON, a key is unknown or missing, or a value cannot be used.
    """
    read = read_json(path, _File, what=WHAT)
    blocks = [_block(block, f"{path}, block {i}") for i, block in enumerate(read.blocks)]
    return CostsFile(blocks, read.batch_size, read.measured)


def _block(values: dict[str, Any], where: str) -> BlockCosts:
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
