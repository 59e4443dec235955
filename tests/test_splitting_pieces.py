"""Modules that run as one piece: subclasses of torch's layers, and what a trace cannot follow or would change.

Oracle: the network itself, in both modes.
"""

import pytest
import torch
import torch.nn.functional as F
from splitting_helpers import (
    ThreeLayers,
    assert_equals_forward,
    assert_trains_the_same,
    batch,
    compose,
    rows,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from blocklocal import BlockLocal, InputError, split

torch.set_num_threads(1)


class NormAct(nn.BatchNorm2d):
    """A BatchNorm with its activation, that counts its batches itself: its operations differ by mode."""

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return F.relu(y)


class NormDropAct(nn.GroupNorm):
    """With layers of its own, as in a model zoo."""

    def __init__(self, channels):
        super().__init__(2, channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class NormOnly(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x * 1.0)


class OwnConv(nn.Conv2d):
    """Standardises its weights in Python that looks at them."""

    def forward(self, x):
        w = self.weight - self.weight.mean() if float(self.weight.detach().abs().max()) > 0 else self.weight
        return self._conv_forward(x, w, self.bias)


class OwnReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x) if self.training else torch.relu(x)


class Net(nn.Module):
    def __init__(self, norm, conv=nn.Conv2d, act=nn.Identity):
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.bn1, self.act1 = conv(1, 4, 3, padding=1), norm(4), act()
        self.c2, self.bn2, self.act2 = conv(4, 4, 3, padding=1), norm(4), act()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.act1(self.bn1(self.c1(x)))
        return self.head(self.act2(self.bn2(self.c2(x))).mean((2, 3)))


@pytest.mark.parametrize("norm", [NormAct, NormDropAct, NormOnly])
def test_a_norm_of_the_users_own_is_one_layer_and_stays_with_its_convolution(norm):
    model = Net(norm)
    parts = split(model, blocks=3, example=batch())
    assert [name.split("–")[0] for name in parts.names] == ["c1", "c2", "head"]
    assert parts.names[0] in ("c1–bn1", "c1")
    assert_equals_forward(parts, model, batch())
    assert_trains_the_same(parts, model, batch())


@pytest.mark.parametrize(("norm", "activated"), [(NormAct, True), (NormDropAct, True), (NormOnly, False)])
def test_a_norm_that_ends_with_an_activation_is_known_to_do_so(norm, activated):
    assert split(Net(norm), at=["c2"]).after_activation == [activated]
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 144, 3))
    assert split(layers, at=["2"]).after_activation == [activated]


def test_an_activation_of_the_users_own_is_an_activation():
    model = Net(nn.BatchNorm2d, act=OwnReLU)
    parts = split(model, blocks=3)
    assert parts.after_activation == [False, False]  # the cuts fall before them
    assert split(model, at=["c2"]).after_activation == [True]
    assert_equals_forward(parts, model, batch())


def test_a_convolution_of_the_users_own_is_one_weighted_layer():
    model = Net(nn.BatchNorm2d, conv=OwnConv, act=nn.ReLU)
    parts = split(model, blocks=3, example=batch())
    assert [name.split("–")[0] for name in parts.names] == ["c1", "c2", "head"]
    assert_equals_forward(parts, model, batch())
    assert_trains_the_same(parts, model, batch())


class Unit(nn.Module):
    """A hidden layer whose forward `kind` decides."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind, self.memory, self.calls = nn.Linear(8, 8), kind, None, 0

    def forward(self, x):
        y = self.layer(x)
        if self.kind == "looks at data" and y.sum() > 1e9:
            y = y * 0
        if self.kind == "other operations in training" and self.training:
            y = y * 2
        if self.kind == "keeps a state":
            y = y if self.memory is None else 0.5 * self.memory + y
            self.memory = y.detach()
        if self.kind == "keeps what it made":
            self.memory = y
        if self.kind == "counts":
            self.calls += 1
        if self.kind == "makes random numbers":
            y = y + torch.rand(8) * 0.0
        if self.kind == "asks for autocast":
            y = y.float() if torch.is_autocast_enabled("cpu") else y * 1.0
        return y


KINDS = [
    "looks at data",
    "other operations in training",
    "keeps a state",
    "keeps what it made",
    "counts",
    "makes random numbers",
    "asks for autocast",
]


class OfUnits(ThreeLayers):
    def __init__(self, kind):
        super().__init__()
        self.unit, self.other = Unit(kind), Unit(kind)

    def forward(self, x):
        x = torch.relu(self.unit(torch.relu(self.a(x))))
        return self.c(torch.relu(self.b(self.other(x))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_a_trace_cannot_follow_runs_as_it_is(kind):
    model = OfUnits(kind)
    parts = split(model, at=["unit", "other", "c"], example=rows())
    assert_equals_forward(parts, model, rows())
    if kind != "keeps a state":  # its second call goes on from the first
        assert_trains_the_same(parts, model, rows())


def test_a_module_that_runs_as_it_is_keeps_its_state_from_step_to_step():
    model = OfUnits("counts")
    network = BlockLocal(split(model, at=["other"]), classes=3, example=rows(), readout=0)
    before = model.unit.calls
    for _ in range(3):
        network.step(rows(), torch.tensor([0, 1, 2, 0]))
    assert model.unit.calls == before + 3


@pytest.mark.parametrize("kind", KINDS[:3])
def test_no_cut_falls_inside_such_a_module_and_the_message_says_why(kind):
    with pytest.raises(
        InputError, match=r"'unit.layer'.*inside 'unit', which runs as one piece, because.*Name a module"
    ):
        split(OfUnits(kind), at=["unit.layer"])
    with pytest.raises(InputError, match=r"9 blocks.*'unit' is one piece: "):
        split(OfUnits(kind), blocks=9)


def test_the_reason_names_the_module_and_not_the_input():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ModuleDict({"bad": Unit("other operations in training")})
            self.b = nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.inner["bad"](x))

    with pytest.raises(InputError, match=r"inside 'inner\.bad'.*other operations in training"):
        split(Whole(), at=["inner.bad.layer"])


def test_one_module_that_cannot_be_followed_does_not_cost_the_cuts_in_the_others():
    class Mixed(ThreeLayers):
        def __init__(self):
            super().__init__()
            self.unit, self.sequence = Unit("counts"), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

        def forward(self, x):
            return self.c(torch.relu(self.sequence(torch.relu(self.unit(self.a(x))))))

    model = Mixed()
    parts = split(model, at=["sequence.2"])
    assert_equals_forward(parts, model, rows())


class TestHooks:
    @pytest.mark.parametrize(
        "how", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
    )
    @pytest.mark.parametrize("where", ["b", "sequence"])
    def test_hooks_of_a_module_run_with_its_block(self, how, where):
        def hook(module, given, made=None):
            if how == "register_full_backward_hook":
                return tuple(None if g is None else g * 2 for g in given)
            return given[0] * 2 if made is None else made * 3

        class Hooked(ThreeLayers):
            def __init__(self):
                super().__init__()
                self.sequence = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8)))

            def forward(self, x):
                return self.c(torch.relu(self.b(torch.relu(self.sequence(torch.relu(self.a(x)))))))

        model = Hooked()
        getattr(getattr(model, where), how)(hook)
        parts = split(model, at=["b"], example=rows())
        assert_equals_forward(parts, model, rows())
        assert_trains_the_same(parts, model, rows())

    @pytest.mark.parametrize("how", ["register_forward_hook", "register_forward_pre_hook"])
    def test_hooks_of_a_nested_sequential_run_with_its_block(self, how):
        inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        getattr(inner, how)(lambda module, given, made=None: given[0] * 2 if made is None else made * 3)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), inner, nn.Linear(8, 3))
        parts = split(model, blocks=3, example=rows())
        assert_equals_forward(parts, model, rows())

    @pytest.mark.parametrize("model", [ThreeLayers, lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))])
    def test_a_hook_of_the_whole_network_is_refused(self, model):
        model = model()
        handle = model.register_forward_hook(lambda module, given, made: made * 2)
        with pytest.raises(InputError, match=r"hook.*remove it"):
            split(model, blocks=2)
        handle.remove()
        assert len(split(model, blocks=2).blocks) == 2

    def test_a_hook_that_keeps_outputs_gets_tensors_and_nothing_of_a_trace(self):
        kept, model = [], ThreeLayers()
        model.b.register_forward_hook(lambda module, given, made: kept.append(made))
        parts = split(model, at=["c"])
        assert not kept
        compose(parts.blocks, rows())
        assert [type(value) for value in kept] == [torch.Tensor]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm:DeprecationWarning")
@pytest.mark.parametrize(
    "change",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda layer: parametrize.register_parametrization(layer, "weight", nn.Softplus(), unsafe=True),
    ],
)
def test_normalised_weights_are_trained_as_in_the_network(change):
    model = ThreeLayers()
    change(model.b)
    parts = split(model, at=["b", "c"], example=rows())
    assert_equals_forward(parts, model, rows())
    assert_trains_the_same(parts, model, rows())
    plain = parts.to_plain()
    assert torch.equal(plain(rows()), model.eval()(rows()))


class TestOwnTrain:
    class Frozen(nn.Sequential):
        """Keeps its BatchNorm in evaluation mode."""

        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    def test_a_part_that_keeps_itself_in_evaluation_mode_does_so_in_its_block(self):
        class Whole(ThreeLayers):
            def __init__(self):
                super().__init__()
                self.part = TestOwnTrain.Frozen(nn.Linear(8, 8), nn.BatchNorm1d(8))

            def forward(self, x):
                return super().forward(self.part(x))

        flat = nn.Sequential(self.Frozen(nn.Linear(8, 8), nn.BatchNorm1d(8)), nn.ReLU(), nn.Linear(8, 3))
        for model, norm in ((whole := Whole(), whole.part[1]), (flat, flat[0][1])):
            network = BlockLocal(split(model, blocks=2), classes=3, example=rows(), readout=0)
            network.step(rows(), torch.tensor([0, 1, 2, 0]))
            assert norm.num_batches_tracked == 0

    def test_of_the_network_itself_it_is_refused_by_the_name_of_the_part(self):
        class Whole(ThreeLayers):
            def train(self, mode=True):
                super().train(mode)
                self.a.eval()
                return self

        with pytest.raises(InputError, match=r"train\(\) of Whole keeps 'a' in evaluation"):
            split(Whole(), blocks=2)

    def test_one_that_returns_nothing_is_called_all_the_same(self):
        class Silent(nn.Linear):
            def train(self, mode=True):
                super().train(mode)

        class Whole(ThreeLayers):
            def __init__(self):
                super().__init__()
                self.b = Silent(8, 8)

            def train(self, mode=True):
                super().train(mode)

        for model in (Whole(), nn.Sequential(Silent(8, 8), nn.ReLU(), Silent(8, 3))):
            parts = split(model, blocks=2, example=rows(), balance="bytes")
            network = BlockLocal(parts, classes=3, example=rows(), readout=0)
            network.step(rows(), torch.tensor([0, 1, 2, 0]))
            plain = network.to_plain()
            model.eval()
            assert torch.equal(plain(rows()), model(rows()))

    def test_one_that_keeps_nothing_is_fine(self):
        class Whole(ThreeLayers):
            def train(self, mode=True):
                return super().train(mode)

        assert len(split(Whole(), blocks=2).blocks) == 2


def test_what_a_forward_sets_on_the_network_is_said_where_it_does_no_harm_and_refused_where_it_does(caplog):
    class Shows(ThreeLayers):
        def forward(self, x):
            self.features = torch.relu(self.b(torch.relu(self.a(x))))
            return self.c(self.features)

    class Remembers(ThreeLayers):
        memory = None

        def forward(self, x):
            h = self.a(x)
            self.memory = h if self.memory is None else self.memory + h
            return self.c(self.memory)

    model = Shows()
    assert_equals_forward(split(model, blocks=2), model, rows())
    assert "self.features" in caplog.text
    with pytest.raises(InputError, match="Remembers"):
        split(Remembers(), blocks=2)


def test_nothing_of_a_trace_stays_on_a_module_whose_forward_sets_attributes():
    model = OfUnits("keeps what it made")
    split(model, at=["other"], example=rows())
    assert model.unit.memory is None
    assert model.unit.calls == 0
