"""What the tests of splitting share."""

import torch

from blocklocal.models import build_model
from blocklocal.splitting.copying import copy_module


def small(name, side=16, **options):
    torch.manual_seed(0)
    return build_model(name, classes=5, channels=1, image_size=(side, side), width=4, **options)


def batch(channels=1, side=16, size=3):
    return torch.randn(size, channels, side, side, generator=torch.Generator().manual_seed(1))


def compose(blocks, x):
    for block in blocks:
        x = block(x)
    return x


def assert_equals_forward(parts, model, x):
    """In both modes, with the same draws, and with the same BatchNorm statistics afterwards."""
    for training in (True, False):
        reference = copy_module(model).train(training)
        for block in parts.blocks:
            block.train(training)
        torch.manual_seed(7)
        expected = reference(x)
        torch.manual_seed(7)
        assert torch.equal(compose(parts.blocks, x), expected)
        for (name, a), (_, b) in zip(reference.named_buffers(), model.named_buffers(), strict=True):
            assert torch.equal(a, b), name


def gradients(apply, model, x):
    """Of a sum of squares, by name; None where no gradient arrives."""
    model.zero_grad()
    apply(x).square().sum().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_trains_the_same(parts, model, x):
    """Every weight gets the gradient from the blocks in order that it gets from the network, or none from both."""
    model.train()
    for block in parts.blocks:
        block.train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    torch.manual_seed(7)
    wanted = gradients(model, model, x)
    with torch.no_grad():
        for name, value in model.named_buffers():  # statistics, power iterations
            value.copy_(before[name])
    torch.manual_seed(7)
    found = gradients(lambda given: compose(parts.blocks, given), model, x)
    for name, gradient in wanted.items():
        assert (gradient is None) == (found[name] is None), name
        assert gradient is None or torch.allclose(gradient, found[name], atol=1e-6), name


class ThreeLayers(torch.nn.Module):
    """Three dense layers, 8 → 8 → 8 → 3; subclasses say what forward does with them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def rows(size=4):
    return torch.randn(size, 8, generator=torch.Generator().manual_seed(3))
