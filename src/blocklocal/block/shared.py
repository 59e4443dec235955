"""The shared twin: every hidden block reads its output with the table of the last block's linear layer.

The last block turns its features into logits with a table W [R, U], a row for every class or token. Read the other way
it is a backward message: in the Gaussian family, to first order, the evidence ⟨a, b_y⟩ of b_y = W_y is the last
block's own logit. So W goes back from block to block, unchanged and as data; a hidden block k predicts with

    softmax_y( ⟨τ_k · h_k(a_k), W_y⟩ + c_ky )          (SOLO, arXiv 2609.35440)

where the readout h_k, the gain τ_k of its forward message and the log prior c_k over the rows are its own
(`HiddenLoss`). Only the last block's loss trains W. With a period of N steps W moves one block further every N steps:
block k of K reads it as it stood from (K − k) N to (K − k + 1) N − 1 steps before. That is the same in every walk, so
all of them end with the same weights.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal.block.shapes import units_of
from blocklocal.block.twin import TWINS, Twin, TwinShapes

SHARED = "shared"  # its name


class Periodic(Twin):
    """A twin whose messages move on every `period` steps, by one block each time; or in every step at once."""

    reads_rows = False

    def __init__(self) -> None:
        super().__init__(nn.Identity(), chained=True, squash=False)

    def delay(self, steps: int, outgoing: Tensor) -> None:
        if steps:
            self.period = steps
            super().delay(1, outgoing)


class SharedTwin(Periodic):
    """One block's view of the shared table.

    Attributes:
        held: the table that it reads until the next one comes, [R, U]; None where one comes in every step.
    """

    held: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("held", None)

    def forward(self, incoming: Tensor) -> tuple[Tensor, Tensor]:
        return incoming if self.held is None else self.held, incoming

    def delay(self, steps: int, outgoing: Tensor) -> None:
        super().delay(steps, outgoing)
        self.held = outgoing.detach().clone() if steps else None

    def learn_from(self, incoming: Tensor) -> None:
        if self.held is not None:
            self.held = incoming


class TableSource(Periodic):
    """In the last block: gives its table to the blocks before. It has no message of its own.

    Args:
        name: of the table among the block's parameters.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def source(self, block: nn.Module, incoming: Tensor) -> Tensor:
        """The block's table, whatever came from behind."""
        return block.get_parameter(self.name)

    def forward(self, incoming: Tensor) -> tuple[Tensor, Tensor]:
        """The table twice: as it is, and as data."""
        return incoming, incoming.detach()


def table_of(block: nn.Module, rows: int) -> str:
    """The name of the weight [rows, U] of the last linear layer of a block that gives so many values.

    Raises:
        InputError: there is none.
    """
    found = _tables(block, rows)
    if not found:
        raise InputError(
            f"the shared twin reads the table of the last block's linear layer onto the {rows} classes, and the last "
            "block has no such layer: end the model with one, or give twin='dense'."
        )
    return f"{found[-1]}.weight" if found[-1] else "weight"


def has_table(block: nn.Module, rows: int) -> bool:
    """Whether `table_of` finds one."""
    return bool(_tables(block, rows))


def _tables(block: nn.Module, rows: int) -> list[str]:
    layers = [(name, layer) for name, layer in block.named_modules() if isinstance(layer, nn.Linear)]
    return [name for name, layer in layers if layer.out_features == rows]


def shared_twins(plan: TwinShapes) -> Sequence[Twin]:
    """A view of the last block's table per hidden block.

    Raises:
        InputError: the last block has no such table, or a latent has another number of units than its rows.
    """
    table = plan.blocks[-1].get_parameter(table_of(plan.blocks[-1], plan.rows))
    for k, shape in enumerate(plan.latents):
        if units_of(shape) != table.shape[1]:
            raise InputError(
                f"the shared twin: the last block's table has rows of {table.shape[1]} units, and block {k + 1} gives "
                f"{units_of(shape)}: cut where blocks are as wide as the last layer reads, or give twin='dense'."
            )
    return [SharedTwin() for _ in plan.latents]


TWINS.add(SHARED, shared_twins)
