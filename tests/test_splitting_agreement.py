"""Blocks in order are the network, or split says no: what forward takes and gives, and the comparison on an example."""

import functools
import threading
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from splitting_helpers import ThreeLayers, assert_equals_forward, assert_trains_the_same, rows
from torch import nn

from blocklocal import BlockLocal, InputError, split

torch.set_num_threads(1)
BASE = ThreeLayers.forward

OPEN_FILE = open(__file__)  # noqa: SIM115 - an open file, for as long as the tests run


def decorated(forward):
    @functools.wraps(forward)
    def wrapper(*args, **kwargs):
        return forward(*args, **kwargs)

    return wrapper


class Inputs(ThreeLayers):
    def forward(self, *inputs):
        return BASE(self, inputs[0])


class AllOfThem(ThreeLayers):
    def forward(self, *inputs):
        return BASE(self, sum(inputs))


class Options(ThreeLayers):
    def forward(self, x, **options):
        return BASE(self, options.get("instead", x))


class KeywordOnly(ThreeLayers):
    def forward(self, x, *, scale=2.0):
        return BASE(self, x * scale)


class OptionalTensors(ThreeLayers):
    def forward(self, x, mask=None, hidden=None, flag=True):
        return BASE(self, x if mask is None and flag else x * mask)


class Decorated(ThreeLayers):
    forward = decorated(BASE)


class PositionalOnly(ThreeLayers):
    def forward(self, x, /):
        return BASE(self, x)


@pytest.mark.parametrize("kind", [Inputs, AllOfThem, Options, KeywordOnly, OptionalTensors, Decorated, PositionalOnly])
def test_a_forward_that_takes_one_tensor_among_others_is_traced_as_it_is_called(kind):
    model = kind()
    parts = split(model, blocks=3)
    assert_equals_forward(parts, model, rows())
    assert_trains_the_same(parts, model, rows())


class Nothing(ThreeLayers):
    def forward(self):
        return self.a.weight


class OnlyByName(ThreeLayers):
    def forward(self, *, x):
        return BASE(self, x)


class Two(ThreeLayers):
    def forward(self, x, y):
        return BASE(self, x + y)


class KeywordNeeded(ThreeLayers):
    def forward(self, x, *, scale):
        return BASE(self, x * scale)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Nothing, "must take one tensor"),
        (OnlyByName, r"must take one tensor, by place"),
        (Two, r"must take one tensor, but it also needs y"),
        (KeywordNeeded, r"must take one tensor, but it also needs scale"),
    ],
)
def test_a_forward_that_takes_something_else_is_refused_by_what_it_takes(kind, message):
    with pytest.raises(InputError, match=message):
        split(kind(), blocks=2)


@dataclass
class Output:
    logits: torch.Tensor


class Named(NamedTuple):
    logits: torch.Tensor


GIVES = {"tuple": lambda y: (y, y), "dict": lambda y: {"y": y}, "Output": Output, "Named": Named, "list": lambda y: [y]}


@pytest.mark.parametrize(("name", "give"), GIVES.items())
def test_a_forward_that_gives_something_else_is_refused_by_what_it_gives(name, give):
    class Gives(ThreeLayers):
        def forward(self, x):
            return give(BASE(self, x))

    with pytest.raises(InputError, match=f"must return one tensor, not {name}"):
        split(Gives(), blocks=2)


def test_a_chain_that_gives_something_else_is_refused_when_an_example_is_known():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LSTM(8, 3, batch_first=True))
    with pytest.raises(InputError, match="tuple"):
        split(model, blocks=2, example=torch.zeros(2, 4, 8))
    with pytest.raises(InputError, match="tuple"):
        BlockLocal(split(model, blocks=2), classes=3, example=torch.zeros(2, 4, 8))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda m: torch.compile(m), r"torch.compile.*_orig_mod"),
        (nn.DataParallel, r"DataParallel.*model\.module"),
        (lambda m: torch.jit.trace(m, rows()), "torch.jit"),
        (lambda m: m.forward, "takes an nn.Module, not method"),
        (lambda m: "resnet18", "takes an nn.Module, not str"),
    ],
)
def test_what_is_no_plain_module_is_refused_with_the_way_out(wrap, message):
    with pytest.raises(InputError, match=message):
        split(wrap(ThreeLayers()), blocks=2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize("compiled", [lambda m: torch.compile(m, backend="eager"), torch.jit.script])
def test_a_compiled_module_inside_is_one_layer(compiled):
    model = ThreeLayers()
    model.b = compiled(model.b)
    parts = split(model, at=["b", "c"], example=rows())
    assert torch.allclose(parts.blocks[2](parts.blocks[1](parts.blocks[0](rows()))), model(rows()))


class OwnUnits(ThreeLayers):
    """Units that are not its forward: `wrong` says how."""

    wrong = "scale"

    def units(self):
        return [("a", self.a), ("b", nn.Sequential(nn.ReLU(), self.b)), ("c", nn.Sequential(nn.ReLU(), self.c))]

    def forward(self, x):
        if self.wrong == "detach":
            return self.c(torch.relu(self.b(torch.relu(self.a(x).detach()))))
        if self.wrong == "shape":
            return BASE(self, x)[:1]
        return BASE(self, x) * (2 if self.wrong == "scale" else 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("scale", "other values.*units"),
        ("detach", "only the blocks would train 'a.weight'"),
        ("shape", r"gives \[1, 3\], its blocks in order give \[2, 3\]"),
    ],
)
@pytest.mark.parametrize("route", ["split", "BlockLocal", "first batch"])
def test_units_that_are_not_the_forward_are_refused_wherever_an_example_is_known(wrong, message, route):
    model = OwnUnits()
    model.wrong = wrong
    routes = {
        "split": lambda: split(model, blocks=2, example=rows()),
        "BlockLocal": lambda: BlockLocal(split(model, blocks=2), classes=3, example=rows()),
        "first batch": lambda: BlockLocal(split(model, blocks=2), classes=3).step(rows(), torch.tensor([0, 1, 2, 0])),
    }
    with pytest.raises(InputError, match=message):
        routes[route]()


def test_units_that_are_the_forward_pass():
    model = OwnUnits()
    model.wrong = ""
    assert len(split(model, blocks=3, example=rows()).blocks) == 3


def test_an_example_of_zeros_shows_a_difference_too():
    class Scaled(OwnUnits):
        def forward(self, x):
            return BASE(self, x * 2)

    with pytest.raises(InputError, match="other values"):
        split(Scaled(), blocks=2, example=torch.zeros(4, 8))


def test_a_network_that_cannot_run_on_the_example_is_one_line_with_the_shape():
    with pytest.raises(
        InputError, match=r"ThreeLayers cannot run on the example of shape \[2, 7\], torch.float32"
    ) as refused:
        split(ThreeLayers(), blocks=2, example=torch.zeros(4, 7))
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"cannot run on what reaches it.*\[2, 7\].*float32"):
        BlockLocal(split(ThreeLayers(), blocks=2), classes=3, example=torch.zeros(4, 7))
    with pytest.raises(InputError, match=r"float32 and the network's weights are torch.float64"):
        BlockLocal(split(ThreeLayers().double(), blocks=2), classes=3, example=rows())


class Noticed(ThreeLayers):
    """Everything that a look at it could disturb."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(8), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return self.c(torch.relu(self.norm(self.counted(F.dropout(torch.relu(self.a(x)), 0.5, self.training)))))

    def counted(self, h):
        self.seen.add_(1)
        return self.b(h)


def test_the_comparison_leaves_weights_statistics_modes_gradients_and_random_state_as_they_were():
    model = Noticed()
    model.norm.eval()
    model.c.weight.grad = torch.ones_like(model.c.weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, attributes, random = [m.training for m in model.modules()], sorted(vars(model)), torch.get_rng_state()
    split(model, at=["c"], example=rows())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert sorted(vars(model)) == attributes
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model.c.weight.grad, torch.ones_like(model.c.weight))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "c.weight")


def test_a_module_that_caches_what_it_computes_in_evaluation_is_cut_and_its_cache_left_as_it_was():
    class Caches(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias, self.cache, self.log = nn.Parameter(torch.randn(8)), {}, []

        def forward(self, x):
            if not self.training and "bias" not in self.cache:
                self.cache["bias"] = self.bias * 2
            self.log.append(len(x))
            return x + (self.bias * 2 if self.training else self.cache["bias"])

    model = nn.Sequential(nn.Linear(8, 8), Caches(), nn.ReLU(), nn.Linear(8, 3))
    split(model, blocks=2, example=rows())
    assert model[1].cache == {}
    assert model[1].log == []


def test_weights_that_share_memory_across_blocks_are_refused():
    model = ThreeLayers()
    model.b.weight.data = model.a.weight.data
    with pytest.raises(InputError, match=r"'b' \(its weight\).*blocks 1 and 2"):
        split(model, at=["b"])


HELD = {
    "a lock": threading.Lock,
    "a lock in a list": lambda: [threading.Lock(), 3],
    "a generator of Python": lambda: (i for i in range(3)),
    "a tensor with a graph": lambda: torch.ones(2, requires_grad=True) * 2,
    "one in a dictionary": lambda: {"cache": torch.ones(2, requires_grad=True) * 2},
    "an open file": lambda: OPEN_FILE,
    "a random generator": lambda: torch.Generator().manual_seed(3),
    "a lambda": lambda: lambda x: x,
}


class TestCopies:
    """Modules that copy.deepcopy refuses."""

    class Holding(ThreeLayers):
        def __init__(self, held):
            super().__init__()
            self.held = held

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    @pytest.mark.parametrize("make", HELD.values(), ids=HELD)
    def test_they_are_cut_trained_and_given_back(self, make):
        model = self.Holding(make())
        network = BlockLocal(split(model, blocks=2), classes=3, example=rows(), readout=0)
        network.step(rows(), torch.tensor([0, 1, 2, 0]))
        plain = network.to_plain()
        assert torch.equal(plain(rows()), model.eval()(rows()))
        assert not {id(p) for p in plain.parameters()} & {id(p) for p in model.parameters()}
        assert not {id(m) for m in plain.modules()} & {id(m) for m in model.modules()}

    def test_a_kept_activation_is_copied_as_its_values(self):
        kept = torch.ones(2, requires_grad=True) * 2
        plain = split(self.Holding(kept), blocks=2).to_plain()
        assert torch.equal(plain.held, kept)
        assert plain.held is not kept

    def test_a_callback_bound_to_the_module_is_bound_to_the_copy(self):
        model = self.Holding(threading.Lock())
        model.callback = model.extra_repr
        plain = split(model, blocks=2).to_plain()
        assert plain.callback.__self__ is plain

    def test_an_activation_kept_by_the_network_itself_does_not_stop_a_copy_after_training(self):
        class Keeps(ThreeLayers):
            def forward(self, x):
                self.features = torch.relu(self.b(torch.relu(self.a(x))))
                return self.c(self.features)

        model = Keeps()
        model(rows())
        assert torch.equal(split(model, blocks=2).to_plain()(rows()), model.eval()(rows()))

    def test_one_that_refuses_every_copy_is_named(self):
        class Refuses(ThreeLayers):
            def __deepcopy__(self, memo):
                raise TypeError("not to be copied")

        with pytest.raises(InputError, match=r"Refuses cannot be copied.*not to be copied"):
            split(Refuses(), blocks=2)
