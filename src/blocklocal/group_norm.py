"""A guard around torch's GroupNorm, whose gradient on the CPU ends the process (SIGSEGV; seen in torch 2.13.0) where
maps in channels_last need no gradient themselves. Under backprop that is rare; a block's input never needs one.
"""

import torch
import torch.nn as nn
from torch import Tensor


def guard_group_norms(module: nn.Module) -> None:
    """Let every GroupNorm of `module` read such an input in torch's default layout; values stay the same."""
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm):
            norm.register_forward_pre_hook(_contiguous)


def _contiguous(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, *others = inputs
    return (x.contiguous() if torch.is_grad_enabled() and not x.requires_grad else x, *others)
