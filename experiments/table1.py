"""Table 1: ResNet-18 and ResNet-50 on MNIST, Fashion-MNIST and CIFAR-10 under every rule (paper, §4.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from blocklocal.report.table import aggregate, markdown_lines, mean_spread, number
from blocklocal.runs.compare import finish_run
from blocklocal.runs.config import Config
from experiments.experiment import EXPERIMENTS, Experiment, Job, Place, Row
from experiments.sets import SETS, find_set

# What the paper's Bernoulli rules share: τ is the trial's (the paper's stands in its Supplement), the twin the paper's.
_PAPER = {"family": "bernoulli", "twin": "mirrored", "tau": 0.5, "readout": 0}
METHODS: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "frozen": {"rule": "frozen"},
    "feedback-alignment": {"rule": "feedback-alignment", "lr": 0.02},  # better than 0.1 and 0.005 on validation images
    "printed-eq8": {"objective": "printed-eq8", **_PAPER},
    "variational": {"objective": "variational", **_PAPER},
    "variational-neighbour": {"objective": "variational", "scope": "neighbour", **_PAPER},
    "evidence": {"objective": "evidence", "readout": 0},
    "evidence-neighbour": {"objective": "evidence", "scope": "neighbour", "readout": 0},
    "evidence-readout": {"objective": "evidence"},  # the library's defaults
}
LABELS = {
    "backprop": "backprop",
    "frozen": "frozen control",
    "feedback-alignment": "feedback alignment",
    "printed-eq8": "block-local, printed Eq. 8",
    "variational": "block-local, variational",
    "variational-neighbour": "block-local, variational, neighbour scope",
    "evidence": "block-local, evidence",
    "evidence-neighbour": "block-local, evidence, neighbour scope",
    "evidence-readout": "block-local, evidence, readout",
}
MODELS = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}

# test top-1, test top-3, train top-1 in %, as the paper prints them
PAPER = {
    ("resnet18", "backprop"): ((99.5, 100, 99.7), (92.7, 99.3, 96.0), (95.2, 99.3, 100)),
    ("resnet50", "backprop"): ((99.5, 99.9, 100), (89.0, 98.9, 92.7), (94.0, 99.2, 99.8)),
    ("resnet18", "feedback-alignment"): ((99.0, 99.9, 100), (87.9, 98.6, 92.1), (70.4, 92.5, 80.9)),
    ("resnet50", "feedback-alignment"): ((98.9, 99.9, 100), (83.1, 97.9, 83.7), (70.3, 92.0, 79.3)),
    ("resnet18", "block-local"): ((99.4, 100, 99.6), (91.2, 98.8, 91.0), (72.2, 93.0, 98.8)),
    ("resnet50", "block-local"): ((99.4, 99.8, 99.2), (88.7, 99.0, 85.9), (73.4, 92.7, 99.7)),
}


def published(model: str, method: str, name: str) -> tuple[float, float, float] | None:
    """The paper's figures beside a line of ours; its block-local rule spans two blocks on CIFAR-10, one elsewhere."""
    theirs = ("variational-neighbour",) if name == "cifar10" else ("variational", "printed-eq8")
    figures = PAPER.get((model, "block-local" if method in theirs else method))
    return None if figures is None else figures[list(SETS).index(name)]


def quick(name: str) -> dict[str, Any]:
    """A narrow ResNet-18 on part of the training set: minutes per run on one core."""
    grey = {"width": 16, "train_size": 20_000, "epochs": 5, "model_options": {"stem": "large"}}
    own = {"width": 8, "train_size": 8_000, "epochs": 6, "augment": "flip"} if name == "cifar10" else grey
    return {"validation": 0, "precision": "float32", "tensorboard": False, **own}


def full(name: str) -> dict[str, Any]:
    """Real widths and all images, for a GPU: bfloat16, channels last, data on the device; a checkpoint every epoch."""
    grey = {"epochs": 12, "model_options": {"stem": "large"}}
    own = {"epochs": 40, "augment": "crop,flip"} if name == "cifar10" else grey
    return {"width": 64, "validation": 0, "precision": "auto", "tensorboard": False, **own}


SIZES = {"quick": (quick, ("resnet18",), (0,)), "full": (full, ("resnet18", "resnet50"), (0, 1, 2))}


@final
class Table1(Experiment):
    """4 blocks of 2 (ResNet-50: 4) residual blocks each, one optimiser per block."""

    name: ClassVar[str] = "table1"
    summary: ClassVar[str] = "ResNets on MNIST, Fashion-MNIST and CIFAR-10 under every rule"

    def jobs(self, size: str) -> list[Job]:
        settings, models, seeds = SIZES[size]
        return [
            Job(
                f"{name}-{model}-{method}-seed{seed}",
                {"set": name, "method": method, "model": model, "seed": seed, "changes": settings(name) | changes},
            )
            for seed in seeds
            for model in models
            for name in SETS
            for method, changes in METHODS.items()
        ]

    def run(self, job: Job, place: Place) -> Row:
        wanted = job.settings
        config = Config().edit(
            data=find_set(wanted["set"], place.data),
            model=wanted["model"],
            blocks=4,
            seed=wanted["seed"],
            device=place.device,
            **wanted["changes"],
        )
        return finish_run(config, place.folder / "run", quiet=True, should_stop=place.should_stop)

    def write(self, rows: Sequence[Row], folder: Path) -> str:
        from blocklocal.report.plots import dot_panels
        from blocklocal.report.save import save_figure

        parts, panels = [], []
        for model, name in dict.fromkeys((row["model"], row["set"]) for row in rows):
            own = [row for row in rows if (row["model"], row["set"]) == (model, name)]
            lines = _lines(own)
            title = f"{MODELS.get(model, model)}, {SETS[name]}"
            parts.append(f"**{title}** ({_conditions(own)})\n\n{_table(own, lines, model, name)}")
            panels.append((title, list(lines.values())))
        save_figure(dot_panels(panels), folder, "table1")
        return "\n\n".join(parts) + "\n"


def _lines(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Method → its line of the comparison (`report.table.aggregate`), in the order of `METHODS`."""
    lines = aggregate({**row, "rule": row["method"]} for row in rows)
    named = {line["rule"]: {**line, "label": LABELS[line["rule"]]} for line in lines}
    return {method: named[method] for method in METHODS if method in named}


def _table(rows: Sequence[Row], lines: dict[str, dict[str, Any]], model: str, name: str) -> str:
    paper = "paper: test-1 / test-3 / train-1"
    headings = ("rule", paper, "test-1 %", "test-3 %", "train-1 %", "gap to backprop", "above control")
    body = []
    for method, line in lines.items():
        own = [row for row in rows if row["method"] == method]
        known = published(model, method, name)
        figures = [mean_spread([row[key] for row in own]) for key in ("test_top1", "test_top3", "train_top1")]
        gaps = [number(line[key], sign=True) for key in ("gap_to_backprop", "above_control")]
        body.append([line["label"], " / ".join(f"{v:g}" for v in known) if known else "", *figures, *gaps])
    return markdown_lines(headings, body)


def _conditions(rows: Sequence[Row]) -> str:
    from blocklocal.report.words import conditions

    methods = {"objective", "family", "scope", "readout", "reconstruction"}  # told by the lines themselves
    return conditions([{key: value for key, value in row.items() if key not in methods} for row in rows])


EXPERIMENTS.add("table1", Table1())
