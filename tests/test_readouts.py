"""Readouts. Oracles: shapes, kinds of layers, and that a copy is one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from blocklocal import BlockLocal, build_model, split
from blocklocal._common.errors import InputError
from blocklocal.block.loss import HiddenLoss
from blocklocal.block.readouts import WIDEST, reading_layer, readout
from blocklocal.models.transformer import Layer, Transformer

FLAT, MAP, SEQUENCE = torch.Size([4, 6]), torch.Size([4, 6, 8, 8]), torch.Size([4, 5, 6])
PAIR = 2 * ["ReLU", "Conv2d", "BatchNorm2d"]  # one layer of a map readout


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module.modules() if not list(layer.children())]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("shape", [FLAT, SEQUENCE])
def test_a_readout_keeps_the_width(shape, layers):
    assert readout(shape, layers)(torch.randn(shape)).shape == shape


@pytest.mark.parametrize(
    ("side", "layers", "out"),
    [
        (32, 2, (24, 4)),  # pooled to 16
        (8, 1, (12, 2)),  # pooled to 4
        (8, 2, (24, 1)),  # pooled to 4
        (8, 3, (48, 1)),  # one pixel is reached without
        (8, 4, (48, 1)),
        (7, 2, (24, 1)),  # pooled to 4
        (5, 1, (12, 2)),  # pooled to 3
        (4, 2, (24, 1)),
        (2, 2, (12, 1)),
        (1, 2, (6, 1)),
    ],
)
def test_a_readout_of_maps_doubles_the_channels_where_a_layer_halves_the_side(side, layers, out):
    shape = torch.Size([4, 6, side, side])
    channels, smaller = out
    assert readout(shape, layers)(torch.randn(shape)).shape == (4, channels, smaller, smaller)


def test_no_layer_of_a_readout_is_wider_than_the_limit():
    made = readout(torch.Size([2, 400, 8, 8]), 2)
    assert made(torch.randn(2, 400, 8, 8)).shape == (2, WIDEST, 1, 1)
    assert readout(torch.Size([2, 2 * WIDEST, 2, 2]), 1)(torch.randn(2, 2 * WIDEST, 2, 2)).shape[1] == WIDEST


def test_a_narrow_map_is_not_shrunk_to_nothing():
    shape = torch.Size([4, 6, 8, 1])
    assert readout(shape, 2)(torch.randn(shape)).shape == shape


@pytest.mark.parametrize(("shape", "layer"), [(FLAT, ["Linear", "BatchNorm1d"]), (SEQUENCE, ["Linear", "LayerNorm"])])
def test_a_readout_ends_before_its_last_relu(shape, layer):
    assert kinds(readout(shape, 1)) == layer
    assert kinds(readout(shape, 3)) == [*layer, "ReLU", *layer, "ReLU", *layer]


def test_maps_are_read_by_pairs_of_convolutions_that_end_before_their_relu():
    made = readout(MAP, 2)
    assert kinds(made) == ["AvgPool2d", *(2 * PAIR)]
    assert (made(torch.randn(MAP)) < 0).any()


def test_a_network_has_readouts_of_two_layers_unless_it_says_otherwise():
    model = build_model("resnet18", classes=3, channels=1, image_size=(16, 16), width=4)
    example = torch.zeros(2, 1, 16, 16)
    for settings, number in (({}, 2), ({"readout": 1}, 1)):
        for made in parts(BlockLocal(split(model, 3), classes=3, example=example, **settings)):
            assert [kind for kind in kinds(made) if kind != "AvgPool2d"] == number * PAIR
    assert parts(BlockLocal(split(model, 3), classes=3, example=example, readout=0)) == [None, None]


@pytest.mark.parametrize(("name", "options"), [("mlp", {"norm": False}), ("resnet18", {})])
def test_a_batch_too_small_for_the_norm_of_a_readout_is_refused_with_what_to_do(name, options):
    model = build_model(name, classes=3, channels=1, image_size=(8, 8), width=4, **options)
    network = BlockLocal(split(model, 2), classes=3)
    with pytest.raises(InputError, match=r"block 1: local\.readout\.\d+ \(BatchNorm.*larger batches"):
        network.step(torch.randn(1, 1, 8, 8), torch.tensor([0]))


# --- sequences


def transformer(blocks: int, cut: int) -> BlockLocal:
    model = Transformer(7, 5, width=8, blocks=blocks, causal=True)
    example = torch.zeros(2, 5, dtype=torch.int64)
    return BlockLocal(split(model, cut), classes=7, example=example, readout=2, family="gaussian", normalise="units")


def parts(network: BlockLocal) -> list[nn.Sequential]:
    losses = [learner.local for learner in network.learners]
    return [loss.readout for loss in losses if isinstance(loss, HiddenLoss)]


@pytest.mark.parametrize(("blocks", "cut"), [(3, 3), (4, 2)])
def test_a_sequence_is_read_by_copies_of_the_layer_behind_the_cut(blocks, cut):
    network = transformer(blocks, cut)
    behind = [next(m for m in learner.block.modules() if isinstance(m, Layer)) for learner in network.learners[1:]]
    for made, layer in zip(parts(network), behind, strict=True):
        assert [type(part) for part in made] == [Layer, Layer, nn.LayerNorm]
        for part in list(made)[:2]:
            known = dict(layer.named_parameters())
            assert all(torch.equal(p, known[name]) for name, p in part.named_parameters())
            assert not {id(p) for p in part.parameters()} & {id(p) for p in layer.parameters()}


def test_what_a_position_is_read_as_does_not_depend_on_later_ones():
    network = transformer(3, 3).eval()
    x = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 3:] = (other[:, 3:] + 1) % 7
    for a, b in zip(network.block_logits(x), network.block_logits(other), strict=True):
        assert torch.equal(a[:, :3], b[:, :3])
        assert not torch.equal(a[:, 3], b[:, 3])


def test_the_copies_learn_where_the_layer_is_frozen():
    model = Transformer(7, 5, width=8, blocks=2)
    model.layers[1].requires_grad_(False)
    network = BlockLocal(split(model, 2), classes=7, example=torch.zeros(2, 5, dtype=torch.int64), readout=1)
    assert all(p.requires_grad for p in parts(network)[0].parameters())


def test_where_no_layer_keeps_the_shape_dense_layers_read_a_sequence():
    assert reading_layer(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)), torch.zeros(SEQUENCE)) is None
    made = readout(SEQUENCE, 2, None)
    assert kinds(made) == ["Linear", "LayerNorm", "ReLU", "Linear", "LayerNorm"]


def test_the_first_layer_that_keeps_the_shape_is_the_one_that_reads():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    block = nn.Sequential(nn.ReLU(), nn.LayerNorm(6), nn.Sequential(first, nn.ReLU()), second, nn.Linear(6, 2))
    assert reading_layer(block, torch.zeros(SEQUENCE)) is first
    assert not first._forward_hooks
    assert block.training


def test_a_layer_that_gives_more_than_a_tensor_does_not_read():
    class Last(nn.Module):
        def forward(self, given):
            return given[0]

    assert reading_layer(nn.Sequential(nn.LSTM(6, 6, batch_first=True), Last()), torch.zeros(SEQUENCE)) is None


def test_a_layer_of_a_traced_network_reads_too():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            kept = (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
            self.embedding, self.layers, self.head = nn.Embedding(7, 8), nn.ModuleList(kept), nn.Linear(8, 7)

        def forward(self, x):
            a = self.embedding(x)
            for layer in self.layers:
                a = layer(a)
            return self.head(a)

    cut = split(Stack(), at=["layers.1"])
    network = BlockLocal(cut, classes=7, example=torch.zeros(2, 5, dtype=torch.int64), readout=1, family="gaussian")
    assert [type(part) for part in parts(network)[0]] == [nn.TransformerEncoderLayer, nn.LayerNorm]
