"""Tensors whose elements fill their piece of memory, in any order of dimensions: they go elsewhere as they lie."""

import torch
from torch import Tensor


def flat(a: Tensor) -> Tensor:
    """The bytes of a dense tensor in the order of memory."""
    return a.as_strided((a.numel(),), (1,)).view(torch.uint8)


def dense(a: Tensor) -> Tensor:
    """A tensor whose elements fill their piece of memory."""
    return a if is_dense(a) else a.contiguous()


def is_dense(a: Tensor) -> bool:
    """Whether the elements fill their piece of memory, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(a.shape, a.stride(), strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
