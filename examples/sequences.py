"""Train a small transformer block by block: it learns to write ten digits in the reverse order.

The task shows how it is done, and cannot compare rules: the frozen control solves it too.
"""

import torch

import blocklocal as bl
from blocklocal.data.sequences import permutations, reversal
from blocklocal.models.transformer import Transformer


def main() -> list[float | None]:
    torch.manual_seed(0)
    batches = reversal(permutations(512), batch_size=32, shuffle=True)
    network = bl.BlockLocal(
        bl.split(Transformer(vocabulary=10, length=10, width=32, blocks=3), blocks=3),
        classes=10,
        optimizer=bl.adamw(lr=3e-3),
    )
    for _ in range(8):
        for x, y in batches:
            network.step(x, y)  # x and y: [B, T]
    return list(bl.evaluate(network, batches).block_top1)


if __name__ == "__main__":
    print("accuracy per block, in percent:", main())
