"""What the tests of splitting share."""

import copy

import torch

from blocklocal.models import build_model


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
        reference = copy.deepcopy(model).train(training)
        for block in parts.blocks:
            block.train(training)
        torch.manual_seed(7)
        expected = reference(x)
        torch.manual_seed(7)
        assert torch.equal(compose(parts.blocks, x), expected)
        for (name, a), (_, b) in zip(reference.named_buffers(), model.named_buffers(), strict=True):
            assert torch.equal(a, b), name
