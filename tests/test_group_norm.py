"""GroupNorm at a cut, in channels_last. Oracle: the same network in torch's default layout.

Without the guard these end the test process instead of failing.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from blocklocal import BlockLocal, split

CLASSES = 3


def trained(memory_format: torch.memory_format, **settings) -> dict[str, torch.Tensor]:
    """All parameters after one step."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(2, 16, 3, 1, 1))
    model.add_module("norm", nn.GroupNorm(2, 16))
    model.add_module("second", nn.Conv2d(16, 16, 3, 1, 1))
    model.add_module("batch_norm", nn.BatchNorm2d(16))
    model.add_module("head", nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)))
    blocks = split(model, at=["norm", "head"])
    x = torch.randn(10, 2, 4, 4).contiguous(memory_format=memory_format)
    net = BlockLocal(blocks, classes=CLASSES, example=x, seed=0, **settings)
    net.to(memory_format=memory_format)
    net.step(x, torch.arange(10) % CLASSES)
    return {name: p.detach().contiguous() for name, p in net.named_parameters()}


@pytest.mark.parametrize("settings", [{"twin": "mirrored", "readout": 0}, {"twin": "dense"}, {"rule": "greedy"}])
def test_a_block_or_twin_may_begin_with_it(settings):
    wanted, found = (trained(layout, **settings) for layout in (torch.contiguous_format, torch.channels_last))
    assert not found["_learners.1.block.norm.weight"].equal(torch.ones(16))
    for name, parameter in found.items():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-4, atol=1e-6)
