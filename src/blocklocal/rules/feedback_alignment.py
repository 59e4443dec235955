"""Feedback alignment: end-to-end, but errors flow back through fixed random kernels (Lillicrap et al. 2014).

The forward pass is untouched. While a unit runs, every linear layer and convolution that PyTorch is asked for uses its
own fixed feedback weight in the place of the transposed weight when the gradient of its *input* is computed. The model
is not copied or changed: the calls are intercepted by a `TorchFunctionMode`.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from blocklocal.rules.base import RULES, Rule, local_step
from blocklocal.unit import Around


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + c with ∂L/∂x = ∂L/∂y · B."""

    @staticmethod
    def forward(ctx, x, weight, bias, feedback):
        ctx.save_for_backward(x, feedback)
        ctx.has_bias = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):  # pyrefly: ignore
        x, feedback = ctx.saved_tensors
        g, flat = gradient.flatten(0, -2), x.flatten(0, -2)
        return gradient @ feedback, g.T @ flat, g.sum(0) if ctx.has_bias else None, None


class _Conv2d(torch.autograd.Function):
    """A convolution with the kernel B in the place of W when the gradient of its input is computed."""

    @staticmethod
    def forward(ctx, x, weight, bias, feedback, options):
        ctx.save_for_backward(x, feedback)
        ctx.options, ctx.has_bias = options, bias is not None
        return F.conv2d(x, weight, bias, **options)

    @staticmethod
    def backward(ctx, gradient):  # pyrefly: ignore
        x, feedback = ctx.saved_tensors
        to_input = torch.nn.grad.conv2d_input(x.shape, feedback, gradient, **ctx.options)
        to_weight = torch.nn.grad.conv2d_weight(x, feedback.shape, gradient, **ctx.options)
        return to_input, to_weight, gradient.sum((0, 2, 3)) if ctx.has_bias else None, None, None


class FeedbackWeights(TorchFunctionMode):
    """Routes the linear layers and convolutions of known weights through their feedback weights."""

    def __init__(self, feedback: dict[int, Tensor]):
        super().__init__()
        self.feedback = feedback

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func is torch.conv2d:
            return self._conv2d(*args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        known = self.feedback.get(id(weight))
        if known is None:
            return F.linear(input, weight, bias)
        return _Linear.apply(*_autocast(input, weight, bias, known))

    def _conv2d(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups=1
    ) -> Tensor:
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        known = self.feedback.get(id(weight))
        if known is None:
            return F.conv2d(input, weight, bias, **options)
        if isinstance(padding, str):
            input, options["padding"] = _padded(input, weight, padding, dilation), 0
        return _Conv2d.apply(*_autocast(input, weight, bias, known), options)


def _padded(x: Tensor, weight: Tensor, padding: str, dilation: int | Sequence[int]) -> Tensor:
    """The input with the zeros of padding="same" or "valid" around it: the gradient functions take numbers only."""
    if padding == "valid":
        return x
    steps = (dilation, dilation) if isinstance(dilation, int) else dilation
    total = [step * (size - 1) for step, size in zip(steps, weight.shape[2:], strict=True)]
    return F.pad(x, [side for zeros in reversed(total) for side in (zeros // 2, zeros - zeros // 2)])


def _autocast(x: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """Autocast does not reach into a custom function's backward pass, so its cast is made here."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return [x, *others]
    dtype = torch.get_autocast_dtype(device)
    return [None if t is None else t.to(dtype) for t in (x, *others)]


class FeedbackLayers(Around):
    """One fixed feedback weight per layer, Kaiming-uniform (He et al. 2015), as buffers named after the layers.

    Their scale is that of PyTorch's own initial weights (Kaiming-uniform too, with a = √5). With another one, such as
    the gain √2 of ReLU networks, BatchNorm, which divides errors by the scale of the forward weights, makes them grow
    by the ratio at every layer: √6 per layer, 10⁶ over a ResNet-18.

    The paper sets the bias of the feedback kernels to one; a constant has no derivative, so it changes no gradient and
    is not stored.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        for name, layer in _layers(block):
            weight = torch.empty_like(layer.weight)
            self.register_buffer(name, nn.init.kaiming_uniform_(weight, a=math.sqrt(5)))

    def context(self, block: nn.Module) -> FeedbackWeights:
        """The context in which `block` learns by these weights; made anew each time, it follows `.to(device)`."""
        return FeedbackWeights({id(layer.weight): self.get_buffer(name) for name, layer in _layers(block)})


def _layers(block: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for name, layer in block.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # "/" for ".", which buffers may not have, and in front, so that no name of an nn.Module's own is taken
            yield "/" + name.replace(".", "/"), layer


RULES.add(
    "feedback-alignment",
    Rule(
        "feedback-alignment",
        "end to end through fixed random feedback kernels",
        local_step,
        local=False,
        whole=True,
        around=FeedbackLayers,
    ),
)
