"""Numbers read off shapes where a cut lies between the reading and the use. Oracle: the network itself, on batches of
several sizes.
"""

import pytest
import torch
import torch.nn.functional as F
from splitting_helpers import assert_equals_forward, batch
from torch import nn

from blocklocal import InputError, split

torch.set_num_threads(1)


class Convolutions(nn.Module):
    """Two convolutions and a dense layer; subclasses say how the map becomes flat."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.c2, self.f = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(256, 3)

    def maps(self, x):
        return F.relu(self.c2(F.relu(self.c1(x))))


class SizeFirst(Convolutions):
    def forward(self, x):
        n = x.size(0)
        return self.f(self.maps(x).view(n, -1))


class ShapeFirst(Convolutions):
    def forward(self, x):
        n = x.shape[0]
        return self.f(self.maps(x).reshape((n, -1)))


class ShapeKept(Convolutions):
    def forward(self, x):
        shape = x.shape
        return self.f(self.maps(x).view(shape[0], -1))


class Unpacked(Convolutions):
    def forward(self, x):
        n, _, _, _ = x.shape
        return self.f(self.maps(x).view(n, -1))


class InputReadLate(Convolutions):
    def forward(self, x):
        h = self.maps(x)
        return self.f(h.view(x.size(0), -1))


class Computed(Convolutions):
    def forward(self, x):
        n = x.size(dim=0)
        double = n * 2
        return self.f(self.maps(x).view(double // 2, -1))


class DeviceOfTheInput(Convolutions):
    def forward(self, x):
        h = self.maps(x).flatten(1)
        return self.f(h.to(x.device))


class ViewedOnTheWay(Convolutions):
    """The batch is known to stay the first dimension through views that name it."""

    def forward(self, x):
        n = x.size(0)
        h = F.relu(self.c1(x)).view(n, 4, -1).transpose(1, 2).permute(0, 2, 1).view(n, 4, 8, 8)
        return self.f((F.relu(self.c2(h)) + h).view(n, -1))


class OfTheMessage(Convolutions):
    """Read off the tensor that crosses, in any dimension."""

    def forward(self, x):
        h = F.relu(self.c1(x))
        channels, side = h.size(1), h.shape[2:]
        h = F.relu(self.c2(h))
        return self.f(F.interpolate(h, size=side).view(-1, channels * 64))


BATCH = [
    SizeFirst, ShapeFirst, ShapeKept, Unpacked, InputReadLate, Computed, DeviceOfTheInput, ViewedOnTheWay,
]  # fmt: skip


@pytest.mark.parametrize("kind", BATCH)
@pytest.mark.parametrize("at", [["c2"], ["f"], ["c2", "f"]])
def test_the_batch_size_is_read_again_off_the_tensor_that_crosses(kind, at):
    model = kind()
    if kind in (SizeFirst, ShapeFirst, ShapeKept, Unpacked, InputReadLate, Computed) and at == ["c2", "f"]:
        at = ["c2"]
    parts = split(model, at=at, example=batch(side=8))
    for size in (1, 3, 5):
        assert_equals_forward(parts, model, batch(side=8, size=size))


def test_a_size_of_the_tensor_that_crosses_is_read_again_whatever_its_dimension():
    model = OfTheMessage()
    parts = split(model, at=["c2"], example=batch(side=8))
    assert_equals_forward(parts, model, batch(side=8, size=2))


@pytest.mark.parametrize("kind", BATCH)
def test_by_number_it_is_cut_everywhere_between_its_layers(kind):
    model = kind()
    parts = split(model, blocks=3, example=batch(side=8))
    assert [name.split("–")[0] for name in parts.names] == ["c1", "c2", "f"]
    assert_equals_forward(parts, model, batch(side=8, size=4))


class OtherSize(Convolutions):
    def forward(self, x):
        side = x.size(2)
        return self.f(self.maps(x).view(-1, 4 * side * side))


class BatchOfFrames(Convolutions):
    """Two images per sample become two samples: the first dimension is another one afterwards."""

    def forward(self, x):
        n = x.size(0)
        h = F.relu(self.c1(x.view(n * 2, 1, 8, 8)))
        return self.f(F.relu(self.c2(h)).view(n, 2, -1).mean(1))


class BatchOfTypes(Convolutions):
    def forward(self, x):
        kind = x.dtype
        return self.f(self.maps(x).flatten(1).to(kind))


@pytest.mark.parametrize("kind", [OtherSize, BatchOfFrames, BatchOfTypes])
def test_another_number_that_crosses_is_refused_as_a_number_with_the_way_to_write_it(kind):
    with pytest.raises(InputError, match=r"'c2'.*a number crosses too.*the network's input.*x\.flatten") as refused:
        split(kind(), at=["c2"])
    assert "skip connection" not in str(refused.value)


def test_frames_are_cut_where_no_number_crosses():
    model = BatchOfFrames()
    x = torch.randn(3, 2, 8, 8)
    with pytest.raises(InputError):
        split(model, at=["c2"])
    parts = split(model, blocks=1, example=x)
    assert_equals_forward(parts, model, x)


def test_a_skip_connection_beside_a_number_is_still_called_one():
    class Skip(Convolutions):
        def forward(self, x):
            n = x.size(0)
            return self.f((F.relu(self.c2(F.relu(self.c1(x)))) + x).view(n, -1))

    with pytest.raises(InputError, match=r"'c2'.*2 cross, so a skip connection") as refused:
        split(Skip(), at=["c2"])
    assert "number" not in str(refused.value)


class Tokens(nn.Module):
    """A class token and heads, as vision transformers write them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.token = nn.Conv2d(1, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.qkv, self.out, self.norm, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        n = x.shape[0]
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(n, -1, -1), x], dim=1)
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))
        return self.head(self.norm(x)[:, 0].view(n, -1))


def test_a_vision_transformer_with_a_class_token_is_cut_behind_its_attention():
    model = Tokens()
    parts = split(model, at=["norm"], example=batch(side=8))
    for size in (1, 4):
        assert_equals_forward(parts, model, batch(side=8, size=size))
