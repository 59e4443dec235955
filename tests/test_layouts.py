"""Which axis of an activation holds the units. Oracle: the same network written with 2-D convolutions, or by hand.

A 1-D convolution is a 2-D one on maps one pixel wide; a network that puts channels last is one that puts them first.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from rule_helpers import ALL_RULES
from torch import nn

from blocklocal import BlockLocal, InputError, adam, sgd, split

BATCH, CHANNELS, LENGTH = 6, 2, 12
Y = torch.arange(BATCH) % 3


def conv1d():
    return nn.Sequential(
        nn.Conv1d(CHANNELS, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 6, 5, 2, 2), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def as_conv2d(model):
    """The same network on maps one pixel wide."""
    parts = []
    for layer in copy.deepcopy(model):
        if isinstance(layer, nn.Conv1d):
            own = (layer.in_channels, layer.out_channels, (5, 1), (layer.stride[0], 1), (2, 0))
            parts.append(nn.Conv2d(*own))
            parts[-1].weight.data, parts[-1].bias.data = layer.weight.detach().unsqueeze(-1), layer.bias.data
        elif isinstance(layer, nn.BatchNorm1d):
            parts.append(nn.BatchNorm2d(layer.num_features))
        else:
            parts.append(nn.AdaptiveAvgPool2d(1) if isinstance(layer, nn.AdaptiveAvgPool1d) else layer)
    return nn.Sequential(*parts)


class Do(nn.Module):
    """A function as a module, in one piece."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(CHANNELS, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return F.max_pool1d(torch.cat([x, self.second(x) + x], 1), 2)


class Mixer(nn.Module):
    """Mixes positions, then units (Tolstikhin et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.enter, self.tokens, self.units = nn.Linear(4, 8), nn.Linear(5, 5), nn.Linear(8, 8)

    def forward(self, x):
        x = self.enter(x)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + self.units(x)


SIGNAL, SEQUENCE, IMAGE, VOLUME = (CHANNELS, LENGTH), (5, 4), (3, 8, 8), (2, 4, 6, 8)
# first block, shape of a sample, units, positions
FIRST = {
    "Conv1d": (lambda: nn.Conv1d(CHANNELS, 8, 3), SIGNAL, 8, 10),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(CHANNELS, 8, 3), SIGNAL, 8, 14),
    "BatchNorm1d and pooling": (lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.AvgPool1d(3)), SIGNAL, 2, 4),
    "skip connections in 1-D": (Skip, SIGNAL, 16, 6),
    "1-D by a matrix": (lambda: nn.Sequential(nn.Conv1d(2, 8, 1), Do(lambda x: torch.ones(7, 8) @ x)), SIGNAL, 7, 12),
    "Linear": (lambda: nn.Linear(4, 8), SEQUENCE, 8, 5),
    "LayerNorm": (lambda: nn.LayerNorm(4), SEQUENCE, 4, 5),
    "LSTM": (Recurrent, SEQUENCE, 8, 5),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), SEQUENCE, 4, 5),
    "mixer": (Mixer, SEQUENCE, 8, 5),
    "Conv1d, transposed": (lambda: nn.Sequential(nn.Conv1d(2, 8, 3), Do(lambda x: x.mT)), SIGNAL, 8, 10),
    "patches": (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Do(lambda x: x.mT)), IMAGE, 8, 4),
    "columns": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), Do(lambda x: x.mean(2))), IMAGE, 6, 6),
    "spectrum": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(1, 2)), IMAGE, 36, 6),
    "Conv2d": (lambda: nn.Conv2d(3, 8, 3), IMAGE, 8, 36),
    "channels last": (lambda: nn.Sequential(Do(lambda x: x.permute(0, 2, 3, 1)), nn.Linear(3, 9)), IMAGE, 9, 64),
    "norm over channels": (lambda: nn.Sequential(nn.Conv2d(3, 9, 3), Do(channel_norm)), IMAGE, 9, 36),
    "Conv3d": (lambda: nn.Conv3d(2, 7, 3), VOLUME, 7, 2 * 4 * 6),
}  # fmt: skip


def channel_norm(x):
    return F.layer_norm(x.permute(0, 2, 3, 1), (9,)).permute(0, 3, 1, 2)


def two_blocks(first, shape, **settings):
    torch.manual_seed(0)
    block = first()
    values = block(torch.zeros(2, *shape))[0].numel()
    model = nn.Sequential(block, nn.Sequential(nn.Flatten(), nn.Linear(values, 3)))
    return BlockLocal(split(model, at=["1"]), classes=3, **{"readout": 0, "optimizer": sgd(0.01), **settings})


@pytest.mark.parametrize("kind", FIRST)
class TestUnits:
    def test_latent_units_are_what_the_layer_gives_at_every_position(self, kind):
        first, shape, units, positions = FIRST[kind]
        net, x = two_blocks(first, shape), torch.randn(BATCH, *shape)
        net.step(x, Y)
        learner = net.learners[0]
        local = learner.local
        a = learner(x)
        assert local.latent(local.read(a), local.features(local.read(a))).shape == (BATCH, positions, units)
        assert learner.message(net.rows)[0].shape == (3, 1, units)

    @pytest.mark.parametrize(
        "settings",
        [
            {"readout": 2},
            {"reconstruction": 1.0, "similarity": 1.0},
            {"reconstruction": 1.0, "reconstruct": "input", "normalise": "units"},
            {"twin": "chain", "normalise": "batch", "readout": 1},
            {"objective": "variational", "scope": "neighbour", "order": "exact"},
            {"rule": "greedy"},
            {"rule": "target-projection"},
            {"rule": "direct-feedback-alignment"},
        ],
        ids=str,
    )
    def test_every_part_of_a_local_loss_trains_on_it(self, kind, settings):
        first, shape, *_ = FIRST[kind]
        net = two_blocks(first, shape, optimizer=adam(1e-3), **settings)
        for _ in range(2):
            results = net.step(torch.randn(BATCH, *shape), Y)
        assert all(math.isfinite(r.loss.item()) for r in results if r is not None)
        assert net.predict(torch.randn(BATCH, *shape)).probabilities.shape == (BATCH, 3)


PARTS = [
    {},
    {"similarity": 1.0},
    {"normalise": "units"},
    {"normalise": "batch"},
    {"twin": "chain"},
    {"objective": "variational", "tau": 0.5},
    {"scope": "neighbour"},
    {"order": "exact", "family": "gaussian"},
]


def trained(model, x, settings):
    net = BlockLocal(split(model, 3), classes=3, optimizer=sgd(0.1), example=x, **{"readout": 0, **settings})
    losses = [[r.loss for r in net.step(x, Y) if r is not None] for _ in range(3)]
    return torch.tensor(losses), [p.detach().flatten() for p in net.learners[0].parameters()]


# Feedback alignment draws its weights in another order for 1-D convolutions.
RULES = [{"rule": rule} for rule in ALL_RULES if rule != "feedback-alignment"]


@pytest.mark.parametrize("settings", [*PARTS, *RULES], ids=str)
def test_a_1_d_network_learns_as_the_same_network_on_maps_one_pixel_wide(settings):
    torch.manual_seed(0)
    model, x = conv1d(), torch.randn(BATCH, CHANNELS, LENGTH)
    other = as_conv2d(model)
    found, expected = trained(model, x, settings), trained(other, x.unsqueeze(-1), settings)
    assert torch.allclose(found[0], expected[0], rtol=1e-4)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize("settings", [*PARTS, {"readout": 2}, {"reconstruction": 1.0}], ids=str)
def test_channels_last_learn_as_channels_first(settings):
    class Last(nn.Module):
        def __init__(self, layer, before, after):
            super().__init__()
            self.layer, self.before, self.after = layer, before, after

        def forward(self, x):
            x = x.permute(0, 3, 1, 2) if self.before else x
            x = F.relu(self.layer(x))
            return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]) if self.after else channels_normed(x)

    def channels_normed(x):
        return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)

    x, found = torch.randn(BATCH, 3, 6, 6), []
    for last in (True, False):
        torch.manual_seed(0)
        blocks = [Last(nn.Conv2d(3, 5, 3), False, last), Last(nn.Conv2d(5, 5, 3), last, False)]
        model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(20, 3))
        given = {"readout": 0, "optimizer": sgd(0.1), **settings}
        net = BlockLocal(split(model, at=["1", "2"]), classes=3, example=x, **given)
        found.append([[r.loss.item() for r in net.step(x, Y)] for _ in range(3)])
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-4)


def test_the_readout_of_a_line_is_made_of_1_d_convolutions():
    net = two_blocks(*FIRST["Conv1d"][:2], readout=2, example=torch.zeros(2, *SIGNAL))
    sizes = {layer.kernel_size for layer in net.learners[0].local.readout.modules() if isinstance(layer, nn.Conv2d)}
    assert sizes == {(3, 1)}


def test_the_readout_of_a_volume_is_made_of_3_d_convolutions():
    net = two_blocks(*FIRST["Conv3d"][:2], readout=1, example=torch.zeros(2, *VOLUME))
    assert [type(layer).__name__ for layer in net.learners[0].local.readout if list(layer.parameters())] == 2 * [
        "Conv3d",
        "BatchNorm3d",
    ]


class Opaque(nn.Module):
    """Layers that cannot be told apart: one axis from each of two inputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 9))

    def forward(self, x):
        return torch.einsum("bct,ce,tf->bef", x, self.weight[:2, :8], torch.ones(LENGTH, 5))


def opaque(unit_axis=None, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(Opaque(), nn.Sequential(nn.Flatten(), nn.Linear(40, 3)))
    if unit_axis is not None:
        model.unit_axis = unit_axis
    return BlockLocal(split(model, at=["1"]), classes=3, readout=0, **settings)


def test_three_axes_that_no_layer_tells_about_are_refused_with_how_to_say_it():
    with pytest.raises(
        InputError, match=r"block 1 gives .* \[2, 8, 5\].* model\.unit_axis = 1, or model\.unit_axis = -1"
    ):
        opaque().step(torch.randn(BATCH, *SIGNAL), Y)


@pytest.mark.parametrize(("axis", "units"), [(1, 8), (-1, 5)])
def test_the_model_may_say_it(axis, units):
    net = opaque(axis)
    net.step(torch.randn(BATCH, *SIGNAL), Y)
    assert net.learners[0].message(net.rows)[0].shape == (3, 1, units)


def test_another_word_than_the_first_or_last_axis_is_refused():
    with pytest.raises(InputError, match=r"unit_axis is 'channels'; it must be 1 .* or -1"):
        opaque("channels").step(torch.randn(BATCH, *SIGNAL), Y)


@pytest.mark.parametrize("rule", ["backprop", "frozen", "feedback-alignment"])
def test_rules_that_read_no_latent_take_any_activation(rule):
    opaque(rule=rule).step(torch.randn(BATCH, *SIGNAL), Y)


def test_channels_first_at_the_output_are_refused():
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 10, 1))
    with pytest.raises(InputError, match=r"channels first, \[2, 10, 10\].* transpose\(1, 2\)"):
        BlockLocal(split(model, 2), classes=10, example=torch.zeros(2, *SIGNAL))


@pytest.mark.parametrize("kind", ["Conv1d", "Conv3d", "channels last"])
def test_a_mirrored_twin_of_other_maps_is_refused(kind):
    first, shape, *_ = FIRST[kind]
    with pytest.raises(InputError, match="give twin='dense' or twin='chain'"):
        two_blocks(first, shape, twin="mirrored", example=torch.zeros(2, *shape))


def test_activations_with_the_positions_first_are_refused():
    model = nn.Sequential(Do(lambda x: x.transpose(0, 1)), nn.Linear(4, 8), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"the first axis must be the batch.*batch_first=True"):
        BlockLocal(split(model, at=["2"]), classes=3, example=torch.zeros(2, *SEQUENCE))


def test_looking_leaves_no_hook_behind():
    net = two_blocks(*FIRST["Conv1d"][:2], example=torch.zeros(2, *SIGNAL))
    assert not any(module._forward_hooks for module in net.split.model.modules())
