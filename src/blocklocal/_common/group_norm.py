"""A guard around torch's GroupNorm, whose gradient on the CPU can end the process (SIGSEGV; seen in torch 2.13.0).

It does where maps in channels_last need no gradient themselves. Under backprop that is rare; a block's input never
needs one.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_GROUP_NORMS = (F.group_norm, torch.group_norm)


class _Contiguous(TorchFunctionMode):
    """Every group norm reads an input without a gradient in torch's default layout; values stay the same.

    Nothing is left on a module: the calls are intercepted, and only in this thread.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _GROUP_NORMS and args and not args[0].requires_grad:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


def guarded(device: torch.device) -> AbstractContextManager:
    """The context in which modules run on this device while gradients are taken."""
    return _Contiguous() if device.type == "cpu" and torch.is_grad_enabled() else nullcontext()
