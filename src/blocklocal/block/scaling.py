"""A block's loss scale, for float16: torch's GradScaler, whose state is saved with that of the block's optimiser."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SCALER = "scaler"  # its name in the optimiser's state_dict


class LossScale:
    """Multiplies a block's loss so that small gradients do not vanish in float16, and divides before the update.

    An update whose gradients are not finite is left out, and the scale halved.

    Args:
        optimizer: the block's; its `state_dict` has the state of the scale from now on, until `end`.
        device: where the block learns.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: str):
        self._scaler = torch.amp.GradScaler(device)  # type: ignore[attr-defined]
        self._optimizer = optimizer
        self._hooks = [
            optimizer.register_state_dict_post_hook(self._saved),
            optimizer.register_load_state_dict_pre_hook(self._loaded),
        ]

    def end(self) -> None:
        """The optimiser's `state_dict` is its own again."""
        for hook in self._hooks:
            hook.remove()

    def multiply(self, value: Tensor) -> Tensor:
        return value * self._now(value)

    def divide(self, gradient: Tensor) -> Tensor:
        """In float32, where small values do not vanish."""
        return gradient.float() / self._now(gradient)

    def step(self, parameters: Sequence[nn.Parameter], clip: float | None) -> bool:
        """Divide the gradients, clip them and step the optimiser.

        Returns:
            Whether it stepped.
        """
        if all(p.grad is None for p in parameters):
            return True
        self._scaler.unscale_(self._optimizer)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        before = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def _now(self, like: Tensor) -> Tensor:
        return self._scaler.scale(torch.ones((), device=like.device))

    def _saved(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, SCALER: self._scaler.state_dict()}

    def _loaded(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        if SCALER in state:
            self._scaler.load_state_dict(state[SCALER])
        return {name: value for name, value in state.items() if name != SCALER}
