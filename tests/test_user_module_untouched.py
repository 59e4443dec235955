"""The user's module after blocklocal has worked with it: nothing on it but its trained weights."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blocklocal import BlockLocal, split

CLASSES = 3


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES))


def images(size: int = 4) -> torch.Tensor:
    return torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def marks(model: nn.Module) -> list[tuple[str, type, list[str], int]]:
    """Everything of a module that is no weight: its kind, its attributes, its hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return [
        (name, type(part), sorted(vars(part)), sum(len(getattr(part, hook)) for hook in hooks))
        for name, part in model.named_modules()
    ]


def worked(model: nn.Module, **settings) -> nn.Module:
    """The plain module after three networks were built on it, and the last was trained, asked and measured."""
    for _ in range(3):
        network = BlockLocal(split(model, blocks=2), classes=CLASSES, example=images(), **settings)
    network.step(images(), torch.tensor([0, 1, 2, 0]))
    network.predict(images())
    return network.to_plain()


SETTINGS = [
    {},
    {"twin": "mirrored"},
    {"readout": 2, "reconstruction": 1.0},
    {"rule": "feedback-alignment"},
    {"rule": "backprop"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_hook_and_no_attribute_stays_on_the_module_or_its_plain_copy(settings):
    model = normed()
    before = marks(model)
    plain = worked(model, **settings)
    assert marks(model) == before
    assert marks(plain) == before


def test_a_saved_plain_module_names_nothing_of_this_library():
    file = io.BytesIO()
    torch.save(worked(normed()), file)
    assert b"blocklocal" not in file.getvalue()


def test_the_plain_module_can_be_scripted():
    plain = worked(normed())
    torch.testing.assert_close(torch.jit.script(plain)(images()), plain(images()))


def test_requires_grad_of_the_users_weights_stays_as_it_was():
    model = normed()
    model[1].requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    plain = worked(model)
    assert {name: p.requires_grad for name, p in plain.named_parameters()} == before


def norm_of(kind: str) -> nn.Module:
    class Functional(nn.Module):
        def forward(self, x):
            return F.group_norm(x, 2)

    class BehindAView(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(2, 16, affine=False)

        def forward(self, x):
            return self.norm(F.max_pool2d(x, 2))

    class Own(nn.GroupNorm):
        def forward(self, x):
            return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    return {"functional": Functional, "behind a view": BehindAView, "subclass": lambda: Own(2, 16)}[kind]()


def step_in(layout: torch.memory_format, kind: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(2, 16, 3, 1, 1))
    model.add_module("second", nn.Sequential(norm_of(kind), nn.Conv2d(16, 16, 3, 1, 1)))
    model.add_module("head", nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)))
    x = torch.randn(6, 2, 4, 4).contiguous(memory_format=layout)
    network = BlockLocal(split(model, at=["second", "head"]), classes=CLASSES, example=x, readout=0)
    network.to(memory_format=layout)
    network.step(x, torch.arange(6) % CLASSES)
    return {name: p.detach().contiguous() for name, p in network.named_parameters()}


@pytest.mark.parametrize("kind", ["functional", "behind a view", "subclass"])
def test_any_group_norm_at_the_start_of_a_block_learns_in_channels_last_as_in_the_default_layout(kind):
    wanted, found = step_in(torch.contiguous_format, kind), step_in(torch.channels_last, kind)
    for name, parameter in found.items():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-4, atol=1e-6)
