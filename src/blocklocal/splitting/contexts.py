"""What a `with` inside a forward sets for the operations in it: gradients off, inference mode, another autocast.

torch.fx records operations and not the contexts around them. So the state is read at every operation while the forward
is traced (`state`), and the operation runs inside the same contexts again in its block (`Within`).
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_DEVICES = ("cpu", "cuda")  # whose autocast is looked at

State = tuple[bool, bool, tuple[tuple[str, bool, torch.dtype], ...]]


def state() -> State:
    """Whether gradients and inference mode are on, and the autocast of every device, at this moment."""
    casts = tuple((name, torch.is_autocast_enabled(name), torch.get_autocast_dtype(name)) for name in _DEVICES)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), casts


@contextmanager
def ordinary(*, autocast: bool) -> Generator[None]:
    """Gradients on, no inference mode, and autocast on or off, whatever surrounds it."""
    before = {name: torch.is_autocast_enabled(name) for name in _DEVICES}
    with torch.inference_mode(False), torch.enable_grad():
        try:
            for name in _DEVICES:
                torch.set_autocast_enabled(name, autocast)
            yield
        finally:
            for name, enabled in before.items():
                torch.set_autocast_enabled(name, enabled)


@dataclass(frozen=True)
class Mode:
    """What a forward has set for one of its operations. The default: nothing, all is as it is outside."""

    no_grad: bool = False
    inference: bool = False
    autocast: tuple[tuple[str, bool, torch.dtype], ...] = ()

    @classmethod
    def of(cls, plain: State, cast: State) -> "Mode":
        """From the state in a trace without autocast around it, and in one with it: what is set is the same in both."""
        grad, inference, casts = plain
        inside = tuple(a for a, b in zip(casts, cast[2], strict=True) if a[1] or not b[1])
        return cls(not grad, inference, inside)

    @contextmanager
    def entered(self) -> Generator[None]:
        with ExitStack() as stack:
            if self.inference:
                stack.enter_context(torch.inference_mode())
            elif self.no_grad:
                stack.enter_context(torch.no_grad())
            for device, enabled, dtype in self.autocast:
                if device == "cpu" or torch.cuda.is_available():
                    stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
            yield


class Within(nn.Module):
    """One operation of a forward, inside the contexts that the forward had set for it.

    Args:
        target: a function, the name of a method of the first argument, or None where the first argument is a module to
            call.
    """

    def __init__(self, mode: Mode, target: Callable[..., Any] | str | None):
        super().__init__()
        self.mode, self.target = mode, target

    def forward(self, first: Any, *args: Any, **kwargs: Any) -> Any:
        with self.mode.entered():
            if callable(self.target):
                return self.target(first, *args, **kwargs)
            call = first if self.target is None else getattr(first, self.target)
            return call(*args, **kwargs)
