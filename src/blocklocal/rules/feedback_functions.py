"""Operations whose input gets its error through a fixed feedback weight in the place of the weight itself."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class FedLinear(torch.autograd.Function):
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


class FedConv2d(torch.autograd.Function):
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


class Fed(torch.autograd.Function):
    """Any y = f(W, tensors …) that is linear in W, with B in the place of W in every gradient but that of W.

    As f is linear in W, the gradient of W does not depend on W: all gradients are those of f(B, tensors …). f is run
    again for them in the backward pass.
    """

    @staticmethod
    def forward(ctx, call: Callable[..., Tensor], feedback: Tensor, weight: Tensor, *tensors: Tensor):
        ctx.save_for_backward(feedback, *tensors)
        ctx.call = call
        return call(weight, *tensors)

    @staticmethod
    def backward(ctx, gradient):  # pyrefly: ignore
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            given = [t.detach().requires_grad_(need) for t, need in zip(ctx.saved_tensors, needed, strict=True)]
            output = ctx.call(*given)
        found = iter(torch.autograd.grad(output, [t for t in given if t.requires_grad], gradient))
        return None, None, *(next(found) if need else None for need in needed)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor, stride=1, padding=0, dilation=1, groups=1
) -> Tensor:
    """`torch.conv2d` through a feedback kernel; a single image [C, H, W] is a batch of one."""
    if x.dim() == 3:
        return conv2d(x.unsqueeze(0), weight, bias, feedback, stride, padding, dilation, groups).squeeze(0)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if isinstance(padding, str):
        x, options["padding"] = _padded(x, weight, padding, dilation), 0
    return FedConv2d.apply(*autocast(x, weight, bias, feedback), options)


def _padded(x: Tensor, weight: Tensor, padding: str, dilation: int | Sequence[int]) -> Tensor:
    """The input with the zeros of padding="same" or "valid" around it: the gradient functions take numbers only."""
    if padding == "valid":
        return x
    steps = (dilation, dilation) if isinstance(dilation, int) else dilation
    total = [step * (size - 1) for step, size in zip(steps, weight.shape[2:], strict=True)]
    return F.pad(x, [side for zeros in reversed(total) for side in (zeros // 2, zeros - zeros // 2)])


def autocast(x: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """Autocast does not reach into a custom function's backward pass, so its cast is made here."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return [x, *others]
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t is not None and t.is_floating_point() else t for t in (x, *others)]
