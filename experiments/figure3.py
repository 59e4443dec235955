"""Figure 3: block-local learning of transformers, on the paper's reversal task and as language models."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from blocklocal.report.words import measured_with
from experiments import language, reversal
from experiments.experiment import EXPERIMENTS, Experiment, Job, Place, Row
from experiments.streams import LABELS

TASKS = {"reversal": reversal, "language": language}


@final
class Figure3(Experiment):
    """One transformer layer per block, one optimiser per block, a local loss after every layer but the last."""

    name: ClassVar[str] = "figure3"
    summary: ClassVar[str] = "transformers by depth: the reversal task, and a character-level language model"

    def jobs(self, size: str) -> list[Job]:
        return [job for task in TASKS.values() for job in task.jobs(size)]

    def run(self, job: Job, place: Place) -> Row:
        return TASKS[job.settings["task"]].measure(job.settings, place)

    def write(self, rows: Sequence[Row], folder: Path) -> str:
        parts = []
        for task, section in (("reversal", _reversal), ("language", _language)):
            own = [row for row in rows if row["task"] == task]
            parts += section(own, folder) if own else []
        return "\n\n".join(part for part in parts if part) + "\n"


def _reversal(rows: Sequence[Row], folder: Path) -> list[str]:
    row, deepest = rows[0], max(reversal.depths(rows))
    curves = reversal.curves(rows, deepest)
    _picture(folder, "figure3-curves", curves, f"epoch ({deepest} blocks)", "validation accuracy (%)")
    _picture(folder, "figure3-depth", reversal.by_depth(rows), "blocks", "test accuracy (%)", reversal.depths(rows))
    return [
        f"**Reversal** (width {row['width']}, {row['heads']} head, {row['training']:,} training, {row['test']:,} "
        f"test permutations, {row['epochs']} epochs of batches of {row['batch_size']}, AdamW, one-cycle to "
        f"{row['lr']:g}): test accuracy in %, mean ± deviation over seeds",
        reversal.accuracy_table(rows),
        reversal.verdict(rows),
        "**Where the paper's rule is placed on the residual stream**",
        reversal.placement_table(rows),
        reversal.longer_table(rows),
        "The variational rule is Eq. 7 with Bernoulli units and m = 1 throughout (τ = 0), but where a τ is named.",
        measured_with(rows),
    ]


def _language(rows: Sequence[Row], folder: Path) -> list[str]:
    _picture(folder, "figure3-language", language.by_blocks(rows), "blocks", "test bits per character", language.BLOCKS)
    return [
        "**Character-level language model**, mean ± deviation over seeds",
        language.conditions(rows),
        language.bits_table(rows),
        language.share_table(rows),
        language.verdict(rows),
        language.blocks_table(rows),
        measured_with(rows),
    ]


def _picture(folder: Path, name: str, lines: dict, x_label: str, y_label: str, ticks: Sequence[float] = ()) -> None:
    from blocklocal.report.save import save_figure
    from experiments.means import means_plot

    figure = means_plot(lines, x_label, y_label, labels=LABELS, ticks=ticks)
    if figure is not None:
        save_figure(figure, folder, name)


EXPERIMENTS.add("figure3", Figure3())
