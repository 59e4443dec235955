"""Oracle: the ordinary construction. What is drawn later, block by block, is what it would have drawn."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import streaming_helpers as st
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal._common.seeds import seeded
from blocklocal.models.transformer import Transformer
from blocklocal.streaming import deferred
from blocklocal.streaming.deferred import Deferred
from blocklocal.streaming.streamed import Streamed

pytestmark = pytest.mark.usefixtures("quick_disk")


class Own(nn.Module):
    """Holds one parameter."""

    def __init__(self, make: Callable[[], Tensor]):
        super().__init__()
        self.p = nn.Parameter(make())


def own(make: Callable[[], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Own(make)


def filled(fill: Callable[[Tensor], object], *shape: int) -> Callable[[], nn.Module]:
    """A parameter that is made empty and filled then, as `nn.init` does it."""

    def build() -> nn.Module:
        module = Own(lambda: torch.empty(*shape))
        with torch.no_grad():
            fill(module.p)
        return module

    return build


def sines() -> Tensor:
    steps, rates = torch.arange(6).unsqueeze(1), torch.exp(torch.arange(0, 4, 2) * (-math.log(1e4) / 4))
    return torch.cat([torch.sin(steps * rates), torch.cos(steps * rates)], 1)


def two_of_one_generator() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randn(4, generator=generator), torch.randn(4, generator=generator)])


def other_data() -> nn.Module:
    """A layer whose weight gets other memory after its first content was drawn."""
    layer = nn.Linear(4, 3)
    layer.weight.data = torch.randn(3, 4)
    return layer


def loaded() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.load_state_dict({"weight": torch.full((3, 4), 0.5), "bias": torch.arange(3.0)})
    return layer


def rows(p: Tensor) -> None:
    p.zero_()
    p[1:].normal_()
    p[:, 0] = 2.0


MODULES: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(4, 5, 2, bidirectional=True),
    "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "Embedding": lambda: nn.Embedding(5, 4, padding_idx=1),
    "BatchNorm": lambda: nn.BatchNorm2d(3),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "trunc_normal_": filled(lambda p: nn.init.trunc_normal_(p, std=0.5, a=-0.6, b=0.6), 30, 4),
    "orthogonal_": filled(nn.init.orthogonal_, 3, 4),
    "sparse_": filled(lambda p: nn.init.sparse_(p, 0.5), 6, 4),
    "dirac_": filled(nn.init.dirac_, 3, 3, 3),
    "eye_": filled(nn.init.eye_, 3, 3),
    "kaiming_normal_": filled(nn.init.kaiming_normal_, 6, 4),
    "views": filled(rows, 3, 4),
    "uniform in place": filled(lambda p: p.uniform_(-1, 1).mul_(2).clamp_(0), 3, 4),
    "exponential_": filled(lambda p: p.exponential_(), 5),
    "randn": own(lambda: torch.randn(3, 4) * 0.1 + 1),
    "rand": own(lambda: torch.rand(5) ** 2),
    "randn_like": own(lambda: torch.randn_like(torch.zeros(3, 4))),
    "rand_like": own(lambda: torch.rand_like(torch.zeros(3, 4), dtype=torch.float64)),
    "randperm": own(lambda: torch.randperm(7).float()),
    "randint": own(lambda: torch.randint(2, 9, (5,)).float()),
    "randint_like": own(lambda: torch.randint_like(torch.zeros(9), 9)),
    "bernoulli": own(lambda: torch.bernoulli(torch.full((9,), 0.5))),
    "multinomial": own(lambda: torch.multinomial(torch.tensor([0.1, 5.0, 1.0, 2.0]), 3).float()),
    "poisson": own(lambda: torch.poisson(torch.full((9,), 4.0))),
    "normal": own(lambda: torch.normal(torch.arange(4.0), torch.ones(4))),
    "dropout": own(lambda: nn.functional.dropout(torch.ones(20))),
    "a generator of its own": own(lambda: torch.randn(4, generator=torch.Generator().manual_seed(3))),
    "two draws of one generator": own(two_of_one_generator),
    "manual_seed": lambda: (torch.manual_seed(7), nn.Linear(4, 3))[1],
    "qr": own(lambda: torch.linalg.qr(torch.randn(4, 4))[0]),
    "triu and masked_fill": own(
        lambda: torch.zeros(3, 3).masked_fill(torch.triu(torch.ones(3, 3), 1).bool(), float("-inf"))
    ),
    "sines": own(sines),
    "linspace": own(lambda: torch.linspace(0, 1, 4)),
    "tensor of a list": own(lambda: torch.tensor([1.0, 2.0, 3.0])),
    "tensor of a number": own(lambda: torch.randn(3) * torch.tensor(2.0)),
    "new_tensor": own(lambda: torch.zeros(1, dtype=torch.float64).new_tensor([1, 2])),
    "numpy": own(lambda: torch.from_numpy(np.arange(3, dtype="f4"))),
    "numpy in a sum": own(lambda: torch.randn(3) + torch.from_numpy(np.arange(3, dtype="f4"))),
    "as_tensor of numpy": own(lambda: torch.as_tensor(np.ones((2, 2)))),
    "on the CPU": own(lambda: torch.randn(3, device="cpu")),
    "item": own(lambda: torch.zeros(3) + torch.rand(1).item()),
    "tolist": own(lambda: torch.tensor(torch.linspace(0, 0.1, 3).tolist())),
    "a comparison": own(lambda: torch.ones(3) if bool((torch.rand(9) > 0.5).any()) else torch.zeros(3)),
    "nonzero": own(lambda: torch.ones(5)[torch.arange(5) > 2]),
    "other data": other_data,
    "loaded": loaded,
    "half": lambda: nn.Linear(4, 3).half(),
    "double": lambda: nn.Linear(4, 3).double(),
    "deepcopy": lambda: nn.Sequential(layer := nn.Linear(4, 3), copy.deepcopy(layer)),
}


ALIKE = ("resnet32", "resnet34", "resnet56", "resnet110")  # more of the layers of resnet18 and resnet20


def named(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


@pytest.mark.parametrize("name", MODULES)
def test_what_is_drawn_later_is_what_the_ordinary_construction_draws(name: str) -> None:
    with seeded("module", 1):
        ordinary, after = MODULES[name](), torch.rand(2)
    with seeded("module", 1):
        with torch.device("meta"), Deferred() as made:
            shape = MODULES[name]()
        assert torch.equal(torch.rand(2), after)  # the random numbers after it are the same too
    made.adopt(shape)
    assert all(tensor.is_meta for _, tensor in named(shape))
    made.keep(tensor for _, tensor in named(shape))
    for _ in range(2):  # as often as one likes
        values = made.content(tensor for _, tensor in named(shape))
        for (key, wanted), value in zip(named(ordinary), values, strict=True):
            assert value.dtype == wanted.dtype
            assert torch.equal(value, wanted), key


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in bl.MODELS])
def test_every_model_of_the_library_starts_with_its_ordinary_weights(name: str) -> None:
    side = 16 if name == "vgg8b" else 8

    def build() -> bl.BlockLocal:
        with seeded("model", 2):
            if name == "decoder":
                model = bl.build_model(name, classes=st.CLASSES, input_shape=(side,), tokens=True, width=4, layers=3)
                example = torch.zeros(2, side, dtype=torch.long)
                return bl.BlockLocal(bl.split(model, blocks=3), tokens=st.CLASSES, example=example, message_delay=16)
            model = bl.build_model(name, classes=st.CLASSES, channels=2, image_size=(side, side), width=2)
        return bl.BlockLocal(bl.split(model, blocks=3), classes=st.CLASSES)

    st.assert_same_network(build(), Streamed(build))


@pytest.mark.parametrize("positions", ["random", "sinusoids"])
def test_the_transformer_of_the_library_starts_with_its_ordinary_weights(positions: str) -> None:
    def build() -> bl.BlockLocal:
        with seeded("model", 2):
            model = Transformer(7, 6, width=8, blocks=2, positions=positions)
        return bl.BlockLocal(bl.split(model, blocks=2), classes=7, example=torch.zeros(2, 6, dtype=torch.long))

    st.assert_same_network(build(), Streamed(build))


def test_the_content_of_one_layer_is_drawn_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"), Deferred() as made:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(50, 50), nn.BatchNorm1d(50)) for _ in range(4)))
        model.eval()(torch.zeros(2, 50))  # as a run on the example, whose values nobody wants
    drawn: list[int] = []
    again = deferred._again
    monkeypatch.setattr(deferred, "_again", lambda call, storages: (again(call, storages), drawn.append(len(storages))))
    made.content([*model[2].parameters(), *model[2].buffers()])
    assert max(drawn) == 7  # weight, bias; weight, bias, mean, variance and count


def test_what_shares_memory_shares_it_when_it_is_drawn() -> None:
    with torch.device("meta"), Deferred() as made:
        layer = nn.Linear(3, 3)
        row = layer.weight[1]
    weight, drawn_row = made.content([layer.weight, row])
    weight.data[1] = 7
    assert drawn_row.tolist() == [7, 7, 7]


def test_a_tensor_that_was_made_elsewhere_is_refused() -> None:
    elsewhere = torch.empty(3, 2, device="meta")
    with torch.device("meta"), Deferred() as made:
        total = elsewhere + 1
    for tensor in (elsewhere, total):
        with pytest.raises(InputError, match=r"shape \[3, 2\] is not known"):
            made.content([tensor])


def test_a_look_at_a_value_that_needs_the_whole_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "MOST", 1000)

    def deep() -> float:
        a = torch.ones(1, 20)
        for _ in range(20):
            a = nn.Linear(20, 20)(a)
        return a.sum().item()

    with torch.device("meta"), Deferred(), pytest.raises(InputError, match="most of the network"):
        deep()


class Spread(nn.Module):
    """Holds tensors of every kind: a parameter of numpy, a buffer of a list, and an attribute that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.from_numpy(np.linspace(0.5, 1, st.FEATURES).astype("f4")))
        self.register_buffer("offset", torch.tensor([0.1] * st.FEATURES))
        self.scale = torch.rand(st.FEATURES)
        nn.init.trunc_normal_(self.gain, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain * self.scale + self.offset


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(st.FEATURES, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.unsqueeze(1))[0][:, -1]


KINDS: dict[str, Callable[[], nn.Module]] = {
    "tensors of every kind": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(st.FEATURES, st.FEATURES), Spread()), nn.Linear(st.FEATURES, st.CLASSES)
    ),
    "an LSTM": lambda: nn.Sequential(Recurrent(), nn.Linear(4, st.CLASSES)),
    "lazy layers": lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(st.CLASSES)),
    "weight_norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(st.FEATURES, 5)), nn.ReLU(), nn.Linear(5, st.CLASSES)
    ),
    "spectral_norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(st.FEATURES, 5)), nn.ReLU(), nn.Linear(5, st.CLASSES)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("store", ["ram", pytest.param("files", marks=pytest.mark.slow)])
def test_a_users_network_starts_and_learns_as_the_ordinary_one(kind: str, store: str, tmp_path: Path) -> None:
    build, data = st.made(KINDS[kind], 2), st.batches(3)
    whole = build()
    network = Streamed(build, visit=2, store="ram" if store == "ram" else tmp_path / "store")
    st.assert_same_network(whole, network)
    st.trained(whole, data)
    st.trained(network, data)
    st.assert_same_network(whole, network)
