"""How near purely local learning comes to backprop: no experiment of the paper's, but the question that it raises.

Job names begin with their group:

    proxy   CIFAR-10, a narrow ResNet-18: backprop, the frozen control and block-local, 3 seeds
    rules   the same network under every rule, one seed; the references are those of `proxy`
    grey    MNIST and Fashion-MNIST, two networks, 8 seeds: the differences are tenths of a point
    longer  the Fashion-MNIST of `grey` and the CIFAR-10 of `proxy` with twice their epochs
    wide    (full size) CIFAR-10, ResNet-18 at its real width
    deep    (full size) CIFAR-10, the CIFAR ResNets in many blocks, beside published figures
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

from blocklocal.runs.compare import finish_run
from blocklocal.runs.config import Config
from experiments.accuracy_tables import SHARED, tables
from experiments.experiment import EXPERIMENTS, Experiment, Job, Place, Row
from experiments.sets import find_set

# Where networks are cut; how blocks learn is the library's defaults. Every rule but those that learn end to end has the
# same cuts, so that the control is the control of these blocks.
_CUT: dict[str, Any] = {"balance": "bytes"}
_GREEDY = {**_CUT, "rule": "greedy"}  # with the readout of block-local, so that the two differ in the loss alone
_PAPER = {**_CUT, "readout": 0, "family": "bernoulli", "twin": "chain", "tau": 0.5}  # as the trial had them
METHODS: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "frozen": {**_CUT, "rule": "frozen"},
    "block-local": _CUT,
    "neighbour": {**_CUT, "scope": "neighbour"},
    "evidence-bare": {**_CUT, "readout": 0},
    "greedy": _GREEDY,
    "predsim": {**_GREEDY, "similarity": 1.0},  # equal weights, chosen on validation images (experiments/accuracy)
    "target-projection": {**_CUT, "rule": "target-projection"},
    "direct-feedback-alignment": {**_CUT, "rule": "direct-feedback-alignment"},
    "feedback-alignment": {"rule": "feedback-alignment", "lr": 0.02},  # as in Table 1
    "variational": {**_PAPER, "objective": "variational"},
    "printed-eq8": {**_PAPER, "objective": "printed-eq8"},
}
WHOLE = ("backprop", "feedback-alignment")  # learn end to end, as one block


@dataclass(frozen=True)
class Network:
    """A model, its own settings, and what it is trained with: (method, number of blocks)."""

    model: str
    lines: tuple[tuple[str, int], ...]
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Jobs that share their training settings: every line of every network on every set with every seed.

    A network's seeds are done before the next network begins, so that what is cut short is whole for the first ones.
    """

    name: str
    sets: tuple[str, ...]
    networks: tuple[Network, ...]
    changes: dict[str, Any]
    seeds: tuple[int, ...] = (0, 1, 2)

    def jobs(self) -> Iterator[Job]:
        for network in self.networks:
            for seed in self.seeds:
                for images in self.sets:
                    for method, blocks in network.lines:
                        yield self._job(images, network, method, blocks, seed)

    def _job(self, images: str, network: Network, method: str, blocks: int, seed: int) -> Job:
        line = method if method in WHOLE else f"{method}-k{blocks}"
        settings = {"group": self.name, "set": images, "model": network.model, "method": method, "blocks": blocks}
        changes = _COMMON | self.changes | network.changes | METHODS[method]
        return Job(
            f"{self.name}-{images}-{network.model}-{line}-seed{seed}", {**settings, "seed": seed, "changes": changes}
        )


_COMMON: dict[str, Any] = {"validation": 5_000, "batch_size": 128, "lr": 0.1, "tensorboard": False}
_THREE = (("backprop", 1), ("frozen", 4), ("block-local", 4))
_RULES = tuple((method, 1 if method in WHOLE else 4) for method in METHODS if method not in SHARED)
_PROXY = {"train_size": 25_000, "epochs": 8, "augment": "flip", "precision": "float32"}
_GREY = {"train_size": 20_000, "epochs": 4, "precision": "float32"}
_RESNET = {"width": 16}
_GREY_NETWORKS = (
    Network("resnet18", _THREE, {"width": 32, "model_options": {"stem": "large"}}),
    Network("vgg8b", _THREE, {"width": 16}),
)
_EIGHT = tuple(range(8))


def _deep(model: str, *blocks: int) -> Network:
    local = [(method, count) for count in blocks for method in ("frozen", "block-local")]
    return Network(model, (("backprop", 1), *local), {"width": 16})


SIZES: dict[str, tuple[Group, ...]] = {
    "quick": (
        Group(
            "proxy",
            ("cifar10",),
            (
                Network("resnet18", _THREE, _RESNET),
                Network("resnet18", (("neighbour", 4), ("frozen", 8), ("block-local", 8)), _RESNET),
            ),
            _PROXY,
        ),
        Group("rules", ("cifar10",), (Network("resnet18", _RULES, _RESNET),), _PROXY, seeds=(0,)),
        Group("grey", ("mnist", "fashion-mnist"), _GREY_NETWORKS, _GREY, seeds=_EIGHT),
        Group("longer", ("fashion-mnist",), _GREY_NETWORKS, _GREY | {"epochs": 8}, seeds=_EIGHT),
        Group("longer", ("cifar10",), (Network("resnet18", _THREE, _RESNET),), _PROXY | {"epochs": 16}),
    ),
    "full": (
        Group(
            "wide",
            ("cifar10",),
            (Network("resnet18", _THREE, {"width": 64}),),
            {"epochs": 100, "augment": "crop,flip,cutout", "precision": "auto"},
        ),
        Group(
            "deep",
            ("cifar10",),
            # ResNet-32 has 15 residual blocks, the first with the stem: what others count as 16 modules is 15 blocks
            (_deep("resnet32", 4, 8, 15), _deep("resnet110", 4, 8, 16)),
            {"epochs": 100, "augment": "crop,flip", "precision": "auto"},
        ),
    ),
}


def configuration(job: Job, data: str, device: str = "auto") -> Config:
    """All settings of one run. data: what `find_set` says of the job's image set."""
    own = {name: job.settings[name] for name in ("model", "blocks", "seed")}
    return Config().edit(data=data, device=device, **own, **job.settings["changes"])


@final
class Accuracy(Experiment):
    """Backprop, the frozen control and local rules on the same networks, compared seed by seed."""

    name: ClassVar[str] = "accuracy"
    summary: ClassVar[str] = "how near purely local learning comes to backprop"

    def jobs(self, size: str) -> list[Job]:
        return [job for group in SIZES[size] for job in group.jobs()]

    def run(self, job: Job, place: Place) -> Row:
        config = configuration(job, find_set(job.settings["set"], place.data), place.device)
        return finish_run(config, place.folder / "run", quiet=True, should_stop=place.should_stop)

    def write(self, rows: Sequence[Row], folder: Path) -> str:
        from blocklocal.report.save import save_figure
        from experiments.accuracy_picture import proxy_picture

        figure = proxy_picture(rows)
        if figure is not None:
            save_figure(figure, folder, "accuracy")
        return tables(rows)


EXPERIMENTS.add("accuracy", Accuracy())
