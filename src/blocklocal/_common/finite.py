"""Whether a large tensor is finite, in one pass over it and without a second one as large."""

import torch
from torch import Tensor

_ORDERED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def is_finite(tensor: Tensor) -> Tensor:
    """Whether all values are finite, as a tensor [], so that nobody waits for the device."""
    if tensor.dtype not in _ORDERED or not tensor.numel():
        return tensor.isfinite().all()
    least, most = tensor.aminmax()  # a NaN anywhere is both
    return least.isfinite() & most.isfinite()
