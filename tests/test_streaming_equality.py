"""Oracle: the ordinary network, step by step. Block by block ends with the same weights, optimisers and records."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import streaming_helpers as st
import torch
from batteries import thinned
from run_helpers import equal
from torch import Tensor, nn

import blocklocal as bl
from blocklocal.network.neighbours import Neighbours
from blocklocal.streaming.streamed import Streamed

pytestmark = pytest.mark.usefixtures("quick_disk")
FLAT = (st.FEATURES,)
LOCAL = [name for name in bl.RULES if bl.RULES.get(name).waits_because("local") is None]


class Counting(nn.Module):
    """Keeps a buffer that is in no state_dict, and a number that is in it as extra state; both change its output."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(0.5, 1.5, st.FEATURES), persistent=False)
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def get_extra_state(self) -> dict[str, Any]:
        return {"calls": self.calls, "twice": torch.tensor(2 * self.calls)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]
        assert int(state["twice"]) == 2 * self.calls

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type != "meta":
            self.calls += 1
            self.seen = self.seen + x.detach().mean()
        return x * self.table + 0.01 * self.calls + 0.1 * torch.tanh(self.seen)


class Tied(nn.Module):
    """Two linear layers of one weight, and a third parameter that is another name of the first one's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(st.FEATURES, st.FEATURES), nn.Linear(st.FEATURES, st.FEATURES)
        self.second.weight = self.first.weight
        self.shift = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x))) + self.shift


def holding(part: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Sequential(nn.Linear(st.FEATURES, st.FEATURES), part(), nn.ReLU()),
            nn.Sequential(part(), nn.Linear(st.FEATURES, st.FEATURES), nn.ReLU()),
            nn.Linear(st.FEATURES, st.CLASSES),
        )

    return build


def half_frozen() -> nn.Module:
    model = st.dense()
    assert isinstance(model, nn.Sequential)
    model[0].requires_grad_(False)
    model[1][0].bias.requires_grad_(False)  # type: ignore[index]
    return model


def words() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Embedding(10, 8), layer, nn.Linear(8, st.CLASSES))


def labelled() -> st.Build:
    def build() -> bl.BlockLocal:
        torch.manual_seed(3)
        return bl.BlockLocal(bl.split(st.dense(), blocks=2), labels=st.CLASSES, example=torch.zeros(2, *FLAT))

    return build


def images(count: int = 22) -> bl.Batches:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (count, 2, 4, 4), dtype=torch.uint8, generator=generator)
    given = bl.Images(pixels, torch.randint(0, st.CLASSES, (count,), generator=generator))
    return bl.Batches(
        given, batch_size=4, mean=[0.5] * 2, std=[0.3] * 2, shuffle=True, augment="crop,flip,cutout", seed=4
    )


def sequences() -> list[st.Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randint(0, 10, (3, 5), generator=generator), torch.randint(0, st.CLASSES, (3, 5), generator=generator))
        for _ in range(4)
    ]


def yes_or_no() -> list[st.Batch]:
    return [(x, nn.functional.one_hot(y, st.CLASSES)) for x, y in st.batches()]


def numbers() -> list[tuple[Tensor, ...]]:
    """Two values per sample, one of them unknown, and a weight per sample."""
    made = [(x, x[:, :2] * 3 - 1, torch.linspace(0.5, 2, len(x))) for x, _ in st.batches()]
    made[0][1][0, 1] = torch.nan
    return made


def pictures() -> list[st.Batch]:
    """A class per pixel, some of them unknown."""
    return [(x, (x[:, 0] > 0.5).long().masked_fill(x[:, 1] > 0.9, -100)) for x, _ in st.batches(shape=st.MAPS)]


def mixed() -> list[tuple[Tensor, ...]]:
    return [
        (x, nn.functional.one_hot(y, st.CLASSES) * 0.7 + 0.1, torch.linspace(0, 2, len(x))) for x, y in st.batches()
    ]


def regression() -> nn.Module:
    return nn.Sequential(*list(st.dense())[:-1], nn.Linear(st.FEATURES, 2))


def segmentation() -> nn.Module:
    return nn.Sequential(*list(st.maps())[:2], nn.Conv2d(4, st.CLASSES, 1))


def twice(output: Tensor, y: Tensor) -> Tensor:
    return 2 * nn.functional.cross_entropy(output, y)


def flat() -> list[st.Batch]:
    return st.batches()


def maps() -> list[st.Batch]:
    return st.batches(shape=st.MAPS)


def step_lr(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


@dataclass(frozen=True)
class Kind:
    """A network, how it is prepared and trained, and on what."""

    build: st.Build
    data: Callable[[], Any] = flat
    training: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Neighbours], object] = lambda network: None


def dense(**settings: Any) -> st.Build:
    return st.made(st.dense, **settings)


def of_maps(**settings: Any) -> st.Build:
    return st.made(st.maps, shape=st.MAPS, **settings)


KINDS = {
    **{f"rule {name}": Kind(dense(rule=name)) for name in LOCAL},
    **{f"rule {name} on maps": Kind(of_maps(rule=name), maps) for name in LOCAL},
    "twin chain": Kind(dense(twin="chain", message_delay=7)),
    "twin chain without readout": Kind(dense(twin="chain", message_delay=8, readout=0)),
    "twin mirrored": Kind(of_maps(twin="mirrored", message_delay=7), maps),
    "mixing": Kind(dense(tau=0.5, objective="variational")),
    "bernoulli": Kind(dense(family="bernoulli", objective="printed-eq8")),
    "reconstruction": Kind(of_maps(reconstruction=0.1), maps),
    "reconstruction of the input": Kind(dense(reconstruction=0.1, reconstruct="input")),
    "similarity": Kind(of_maps(similarity=0.3), maps),
    "normalised": Kind(dense(normalise="batch", label_smoothing=0.1)),
    "augmentation": Kind(of_maps(), images),
    "sequences": Kind(st.made(words, 3, (5,), example=torch.zeros(2, 5, dtype=torch.long), readout=1), sequences),
    "labels": Kind(labelled(), yes_or_no),
    "values with weights": Kind(st.made(regression, classes=None, values=bl.Values(2, (0, 1), (2, 3))), numbers),
    "pixels": Kind(st.made(segmentation, shape=st.MAPS, class_weights=[1, 2, 1]), pictures),
    "soft targets with weights": Kind(dense(class_weights=[1, 2, 3], similarity=0.1), mixed),
    "own loss": Kind(dense(output_loss=twice)),
    "cosine": Kind(dense(), training={"schedule": "cosine", "optimizer": bl.sgd(lr=0.05, weight_decay=1e-3)}),
    "constant": Kind(dense(), training={"schedule": "constant", "optimizer": bl.adam(lr=0.01)}),
    "factories": Kind(dense(), training={"schedule": step_lr, "optimizer": torch.optim.RMSprop}),
    "clip": Kind(dense(), training={"optimizer": bl.sgd(lr=0.1, clip=0.01)}),
    "autocast": Kind(of_maps(), maps, prepare=lambda network: network.autocast(torch.bfloat16)),
    "channels last": Kind(
        of_maps(), maps, prepare=lambda network: network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ),
    "tied weights": Kind(st.made(holding(Tied))),
    "own buffers": Kind(st.made(holding(Counting))),
    "frozen parameters": Kind(st.made(half_frozen)),
    "one block": Kind(st.made(st.dense, 1)),
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "ram, 3 alive": {"visit": 2},
    "files, 2 alive, messages in files": {"visit": 2, "store": "files", "most": 2, "cache": "files"},
    "files, 1 alive, visits longer than an epoch": {"visit": 7, "store": "files", "most": 1},
}


@functools.cache
def ordinary(kind: str) -> tuple[bl.BlockLocal, list[dict[str, Any]]]:
    """The network trained in the ordinary way, and its records."""
    return trained(kind, KINDS[kind].build())


def trained(kind: str, network: Any) -> Any:
    case = KINDS[kind]
    case.prepare(network)
    data = case.data()
    held_out = list(data.epoch(9))[:2] if isinstance(data, bl.Batches) else data[:2]
    return network, st.trained(network, data, validation=held_out, **case.training)


def assert_same_predictions(one: Neighbours, other: Neighbours, x: Tensor) -> None:
    a, b = one.predict(x), other.predict(x)  # type: ignore[operator]
    for mine, its in zip((a, a.combined, *a.blocks), (b, b.combined, *b.blocks), strict=True):
        assert (mine is None) == (its is None)
        assert mine is None or torch.equal(mine.probabilities, its.probabilities)


def by_blocks(kind: str, folder: Path, **way: Any) -> Streamed:
    store = folder / "store" if way.pop("store", "ram") == "files" else "ram"
    return Streamed(KINDS[kind].build, store=store, **way)


RARE = [
    *(f"rule {name} on maps" for name in LOCAL if name != "block-local"),
    "twin chain without readout", "bernoulli", "reconstruction of the input", "normalised", "constant", "cosine",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *thinned([kind for kind in KINDS if kind not in RARE], list(WAYS)),
        *(pytest.param(kind, way, marks=pytest.mark.slow) for kind in RARE for way in WAYS),
    ],
)
def test_block_by_block_is_step_by_step_bit_for_bit(kind: str, way: str, tmp_path: Path) -> None:
    whole, records = ordinary(kind)
    network, found = trained(kind, by_blocks(kind, tmp_path, **WAYS[way]))
    st.assert_same_network(whole, network)
    assert equal(found, records)
    data = KINDS[kind].data()
    x = next(iter(data))[0]
    assert_same_predictions(whole, network, x)


@pytest.mark.parametrize(("visit", "most"), thinned([1, 2, 3, 7], [1, 2, 3]))
def test_any_size_of_visits_gives_the_same_weights(visit: int, most: int, tmp_path: Path) -> None:
    whole, records = ordinary("twin chain")
    network, found = trained("twin chain", by_blocks("twin chain", tmp_path, visit=visit, most=most))
    st.assert_same_network(whole, network)
    assert equal(found, records)


@pytest.mark.parametrize("store", ["ram", "files"])
def test_single_steps_are_those_of_the_ordinary_network(store: str, tmp_path: Path) -> None:
    whole, network = KINDS["rule greedy"].build(), by_blocks("rule greedy", tmp_path, visit=4, store=store)
    for x, y in flat():
        for mine, its in zip(whole.step(x, y), network.step(x, y), strict=True):
            assert mine is not None
            assert its is not None
            assert torch.equal(mine.loss, its.loss)
    st.assert_same_network(whole, network)


def test_steps_of_a_walk_that_nobody_commits_are_kept() -> None:
    whole, network = KINDS["rule greedy"].build(), Streamed(KINDS["rule greedy"].build, visit=2)
    for _ in whole.walk(flat()):
        pass
    for _ in network.walk(flat()):
        pass
    st.assert_same_network(whole, network)


def test_chained_messages_of_a_size_that_no_alignment_divides_are_the_ordinary_ones() -> None:
    """Rows of 3 × 5 float32 begin at multiples of 60 bytes, where a product may round in another way."""

    def odd() -> nn.Module:
        return nn.Sequential(nn.Linear(st.FEATURES, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, st.CLASSES))

    build = st.made(odd, twin="chain", message_delay=4)
    whole, network = build(), Streamed(build, visit=4)
    data = st.batches(9)
    assert equal(st.trained(network, data), st.trained(whole, data))
    st.assert_same_network(whole, network)


def test_modes_are_those_of_the_ordinary_network_in_and_after_training() -> None:
    build = st.made(st.maps, shape=st.MAPS)
    whole, network = build(), Streamed(build, visit=2)
    for each in (whole, network):
        each.learners[1].block.eval()  # a part that stays in evaluation mode by itself
        st.trained(each, maps())
    st.assert_same_network(whole, network)
    assert [learner.block.training for learner in whole.learners] == [
        learner.block.training for learner in network.learners
    ]


LOOKED_AT = {
    **{f"rule {name}": {"rule": name} for name in bl.RULES if bl.RULES.get(name).waits_because("local") is not None},
    "scope neighbour": {"scope": "neighbour"},
    **{f"twin chain, delay {delay}": {"twin": "chain", "message_delay": delay} for delay in (0, 1, 9)},
}


@pytest.mark.parametrize("kind", LOOKED_AT)
def test_to_look_at_a_network_any_rule_and_any_twin_will_do(kind: str, tmp_path: Path) -> None:
    build = dense(**LOOKED_AT[kind])
    whole = build()
    st.trained(whole, flat())
    bl.save(whole, tmp_path / "saved")
    network = Streamed(build, visit=4, store=tmp_path / "saved", trains=False)
    bl.load(network, tmp_path / "saved", optimizers=False)
    assert_same_predictions(whole, network, flat()[0][0])
    assert equal(
        [logits for _, logits in network.eval().look(flat())], [logits for _, logits in whole.eval().look(flat())]
    )
    assert network.message_sizes() == whole.message_sizes()
