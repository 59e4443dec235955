"""The tables of `accuracy`, and which targets are met: a row per method, its difference to backprop seed by seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blocklocal.report.table import LEARNING, markdown_lines, mean, mean_spread, number
from blocklocal.report.words import conditions
from experiments.accuracy_paired import CONFIDENCE, Paired, by_seed, paired
from experiments.experiment import Row
from experiments.sets import SETS

LABELS = {
    "backprop": "backprop",
    "frozen": "frozen control",
    "block-local": "block-local",
    "neighbour": "block-local, neighbour scope",
    "evidence-bare": "block-local, evidence alone",
    "variational": "block-local, variational",
    "printed-eq8": "block-local, printed Eq. 8",
    "greedy": "greedy with the same readout",
    "predsim": "greedy with the same readout and similarity (predsim)",
    "target-projection": "target projection",
    "direct-feedback-alignment": "direct feedback alignment",
    "feedback-alignment": "feedback alignment",
}
GROUPS = {
    "proxy": "Proxy",
    "rules": "Rules side by side",
    "grey": "Grey images",
    "longer": "Twice the epochs",
    "wide": "Real width",
    "deep": "Many blocks",
}
MODELS = {"resnet18": "ResNet-18", "resnet32": "ResNet-32", "resnet110": "ResNet-110", "vgg8b": "VGG8b"}
HEADINGS = (
    "rule",
    "test %",
    f"to backprop ({100 * CONFIDENCE:.0f} % interval)",
    "above control",
    "all blocks %",
    "all blocks to backprop",
    "validation %",
    "train %",
    "ECE",
)
SHARED = ("backprop", "frozen", "block-local", "neighbour")  # trained by `proxy`, shown by `rules` too


@dataclass(frozen=True)
class Target:
    """What we want of a line: its difference to backprop, or the interval's lower end, is at least so many points.

    set: the image set that it is about; "" for every one of the group.
    """

    group: str
    method: str
    blocks: int
    least: float
    lower_end: bool = False
    set: str = ""

    def figure(self, difference: Paired) -> float | None:
        """What the target is about; None where too few seeds are there."""
        return (difference.interval and difference.interval[0]) if self.lower_end else difference.mean

    def judge(self, figure: float, over: str = "") -> str:
        return f"{'met' if figure >= self.least else 'missed'} ({number(figure, 2, sign=True)}{over})"


TARGETS = (
    Target("proxy", "block-local", 4, -1.5),
    Target("proxy", "block-local", 8, -4.0),
    Target("proxy", "neighbour", 4, -1.0),
    Target("grey", "block-local", 4, -0.4, lower_end=True),
    Target("longer", "block-local", 4, -0.4, lower_end=True, set="fashion-mnist"),
)


@dataclass(frozen=True)
class Published:
    """Test errors in % as a paper prints them, with its own network code, schedule and all 50,000 training images."""

    what: str
    model: str
    modules: int
    error: float
    backprop: float


PUBLISHED = (
    Published("InfoPro", "resnet32", 4, 8.58, 7.37),
    Published("greedy, as InfoPro has it", "resnet32", 4, 16.07, 7.37),
    Published("DGL, as InfoPro has it", "resnet32", 4, 11.48, 7.37),
    Published("DGL+MAN", "resnet32", 16, 9.11, 6.37),
    Published("InfoPro", "resnet110", 4, 7.30, 6.50),
    Published("AugLocal", "resnet110", 55, 6.04, 5.39),
)


@dataclass(frozen=True)
class Panel:
    """The rows of one table: a group, a set and a model."""

    group: str
    set: str
    model: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return f"{GROUPS[self.group]}: {MODELS.get(self.model, self.model)}, {SETS[self.set]}"

    def lines(self) -> list["Line"]:
        """One per method and number of blocks, in the order of `LABELS`."""
        kept: dict[tuple[str, int], list[Row]] = {}
        for row in self.rows:
            kept.setdefault((row["method"], row["blocks"]), []).append(row)
        order = list(LABELS)
        return [self._line(*key, kept[key]) for key in sorted(kept, key=lambda key: (order.index(key[0]), key[1]))]

    def _line(self, method: str, blocks: int, rows: Sequence[Row]) -> "Line":
        ours = by_seed(rows)
        best = by_seed([row for row in self.rows if row["method"] == "backprop"])
        control = by_seed([row for row in self.rows if (row["method"], row["blocks"]) == ("frozen", blocks)])
        return Line(
            method,
            blocks,
            tuple(rows),
            Paired(()) if method == "backprop" else paired(ours, best),
            Paired(()) if method == "frozen" else paired(ours, control),
            paired(by_seed(rows, "combined_test_top1"), best),
        )


@dataclass(frozen=True)
class Line:
    """A method at a number of blocks: its rows, and its differences to backprop and to the control of the same cuts.

    together: the difference to backprop of all blocks' prediction.
    """

    method: str
    blocks: int
    rows: tuple[Row, ...]
    to_backprop: Paired
    above_control: Paired
    together: Paired

    @property
    def label(self) -> str:
        return LABELS[self.method] + (f", {self.blocks} blocks" if self.blocks > 1 else "")

    def cells(self) -> list[str]:
        """The text of a line of the table, in the order of `HEADINGS`."""
        count = len(by_seed(self.rows))
        return [
            self.label,
            f"{mean_spread(self._all('test_top1'), 2)} ({count} seed{'' if count == 1 else 's'})",
            _difference(self.to_backprop, count) + _range(self.to_backprop.interval),
            _difference(self.above_control, count),
            mean_spread(self._all("combined_test_top1"), 2),
            _difference(self.together, count) + _range(self.together.interval),
            mean_spread(self._all("validation_top1"), 2),
            mean_spread(self._all("train_top1"), 1),
            number(mean(self._all("test_ece")), 3),
        ]

    def _all(self, key: str) -> list[float | None]:
        return [row.get(key) for row in self.rows]


def _difference(differences: Paired, count: int) -> str:
    pairs = len(differences.differences)
    fewer = f" ({pairs} pair{'' if pairs == 1 else 's'})" if 0 < pairs < count else ""
    return number(differences.mean, 2, sign=True) + fewer


def _range(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({' to '.join(number(end, 2, sign=True) for end in interval)})"


def panels(rows: Iterable[Row]) -> list[Panel]:
    """The rows by table. That of rules takes what `proxy` has measured for it, of its own seeds."""
    rows = list(rows)
    kept: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        kept.setdefault((row["group"], row["set"], row["model"]), []).append(row)
    for (group, images, model), own in kept.items():
        if group == "rules":
            seeds = {row["seed"] for row in own}
            wanted = {(1, "backprop"), *((blocks, method) for blocks in _cuts(own) for method in SHARED)}
            same = [row for row in kept.get(("proxy", images, model), []) if row["seed"] in seeds]
            own += [row for row in same if (row["blocks"], row["method"]) in wanted]
    order = list(GROUPS)
    ordered = sorted(kept.items(), key=lambda item: order.index(item[0][0]))
    return [Panel(*key, tuple(own)) for key, own in ordered]


def _cuts(rows: Sequence[Row]) -> set[int]:
    return {row["blocks"] for row in rows if row["blocks"] > 1}


def tables(rows: Sequence[Row]) -> str:
    """All tables as Markdown, each with its conditions; the targets first."""
    every = panels(rows)
    parts = [verdict(every)]
    for panel in every:
        table = markdown_lines(HEADINGS, [line.cells() for line in panel.lines()])
        parts += [f"**{panel.title}** ({_conditions(panel.rows)})", table, _learning(panel), _published(panel)]
    parts.append(
        "To backprop, above control: mean over the seeds of the difference to the run of the same seed, in percentage "
        "points; the interval is Student's, over seeds. The control has the cuts of its line. All blocks: the test "
        "accuracy of their predictions' normalised geometric mean, from the same forward pass and the readouts; the "
        "targets are those of the last block alone."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(every: Sequence[Panel]) -> str:
    """Which targets are met, with the difference that decides; "" where nothing of them is measured."""
    said = [text for target in TARGETS for panel in every if (text := _judge(target, panel))]
    return "\n".join(["**Targets** (difference to backprop, percentage points)\n", *said]) if said else ""


def _judge(target: Target, panel: Panel) -> str:
    found = [line for line in panel.lines() if (line.method, line.blocks) == (target.method, target.blocks)]
    if panel.group != target.group or target.set not in ("", panel.set) or not found:
        return ""
    line = found[0]
    value, together = target.figure(line.to_backprop), target.figure(line.together)
    what = f"{panel.title}, {line.label}"
    wanted = f"{'lower end of the interval' if target.lower_end else 'mean'} at least {target.least:+.1f}"
    if value is None:
        return f"- {what}: not known yet ({wanted} is wanted)"
    seeds = len(line.to_backprop.differences)
    over = f" over {seeds} seed{'' if seeds == 1 else 's'}"
    blocks = f"; all blocks together: {target.judge(together)}" if together is not None else ""
    return f"- {what}: {target.judge(value, over)}; {wanted} is wanted{blocks}"


def _conditions(rows: Sequence[Row]) -> str:
    told = {"objective", "family", "scope", "readout", "reconstruction", "blocks"}  # by the lines, or below the table
    text = conditions([{key: value for key, value in row.items() if key not in told} for row in rows])
    first = rows[0]
    return (
        f"{text}; {first['validation_size']:,} validation images, augmentation "
        f"{first['changes'].get('augment') or 'none'}, batches of {first['changes']['batch_size']}"
    )


def _learning(panel: Panel) -> str:
    """How the blocks of the block-local line learn, from its row; settings that are off are left out."""
    rows = [row for row in panel.rows if row["method"] == "block-local"]
    if not rows:
        return ""
    row: dict[str, Any] = rows[0]
    on = [f"{name.replace('_', ' ')} {row[name]}" for name in LEARNING if row.get(name) not in (None, 0, "none")]
    cut = row["changes"].get("balance", "count")
    return f"Block-local: {', '.join(on)}; every other setting off; cut for equal {cut}."


def _published(panel: Panel) -> str:
    if panel.group != "deep":
        return ""
    found = [
        f"{each.what}, {each.modules} modules: {each.error:.2f} (backprop {each.backprop:.2f}, difference "
        f"{each.backprop - each.error:+.2f})"
        for each in PUBLISHED
        if each.model == panel.model
    ]
    return f"Published test errors in %, under schedules of their own, not measured here: {'; '.join(found)}."
