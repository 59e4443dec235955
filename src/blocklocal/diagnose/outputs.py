"""What every block hands to the next one, whichever rule has trained it."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import Given, lead
from blocklocal.families import Family
from blocklocal.network.network import BlockLocal


def block_outputs(network: BlockLocal, x: Tensor) -> Iterator[Tensor]:
    """The output of each block of the split for a batch x [B, …], first to last; logits [B, C] from the last.

    The blocks are those of the cut, also where the rule trains them as one learner. The mode is left as it is. Look at
    each output before asking for the next one.

    Raises:
        InputError: an output is neither [B, D] nor [B, C, H, W], or not finite.
    """
    precision = network.learners[0].autocast
    given: Given = x
    for block, name in zip(network.split.blocks, network.split.names, strict=True):
        with nullcontext() if precision is None else torch.autocast(x.device.type, dtype=precision):
            given = block(given)
        x = lead(given)
        check_output(x, name)
        yield x


def check_output(a: Tensor, name: str) -> None:
    """Refuse an output that cannot be looked at.

    Args:
        name: of the block.

    Raises:
        InputError: it is neither [B, D] nor [B, C, H, W], or not finite.
    """
    if a.dim() not in (2, 4):
        raise InputError(
            f"the block {name!r} gives an activation of shape {list(a.shape)}; diagnose reads feature maps "
            "[B, C, H, W] and flat outputs [B, D]: it is not made for sequences."
        )
    if not a.isfinite().all():
        raise InputError(f"the output of the block {name!r} is not finite: diagnose an older --checkpoint.")


def as_read(a: Tensor, family: Family | None) -> Tensor:
    """A block's output as the next block is taken to read it: the mean of this family (the ReLU, for rectified units).

    None (the last block's logits) and vector families: the output itself. float32, in the shape of a.
    """
    a = a.float()
    return a if family is None or family.event_dims else family.mean(family.natural(a))
