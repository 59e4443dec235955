"""Rows of a table as a network reads them: numbers as they are, every category as a vector that is learned."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDEST = 32  # numbers in the vector of a category
UNSEEN = 0  # the code of categories that training did not have: its vector is 0 and stays so


class Embedded(nn.Module):
    """[B, F + K] -> [B, F + E]: the last K columns are codes of categories, each of which becomes a vector.

    Args:
        sizes: codes that there are in each of the K columns.

    Attributes:
        width: E, of all vectors together.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        widths = [min(WIDEST, (size + 1) // 2) for size in sizes]
        self.tables = nn.ModuleList(
            nn.Embedding(size, width, padding_idx=UNSEEN) for size, width in zip(sizes, widths, strict=True)
        )
        self.width = sum(widths)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, -len(self.tables) :].long()
        vectors = [table(codes[:, i]) for i, table in enumerate(self.tables)]
        return torch.cat([x[:, : -len(self.tables)], *vectors], 1)
