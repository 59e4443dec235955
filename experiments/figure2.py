"""Figure 2: the Gaussian autoencoder on Fashion-MNIST: predicted variance beside the error that is really made.

    gaussian   end to end, D_KL(data ‖ prediction): means and variances (paper, §3.3)
    plain      the same network, end to end, squared error; its variance is one constant, fitted on training images
    ensemble   five plain networks: the variance across them, and a constant
    folded     the same network in block pairs that learn from local losses alone (paper, §3.4)
    frozen     its control: all pairs but the outermost stay at their random initial values

Curves over epochs are of the validation split; the test set is measured once, after training.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from blocklocal.data import Images, ImageSet, load_images
from blocklocal.report.table import markdown_lines, mean, mean_spread, number
from blocklocal.report.words import measured_with
from blocklocal.runs.machine import find_device
from blocklocal.training.loop import Stopped
from blocklocal.uncertainty.measures import auroc, mismatch
from experiments.experiment import EXPERIMENTS, Experiment, Job, Place, Row
from experiments.figure2_networks import (
    Predictor,
    build,
    constant_variance,
    first,
    load_network,
    own_variance,
    predict_all,
    save_network,
    train,
)
from experiments.sets import find_set

LABELS = {
    "gaussian": "Gaussian, end to end",
    "plain": "constant variance",
    "ensemble": "ensemble of constant-variance networks",
    "folded": "Gaussian, folded (block-local)",
    "frozen": "frozen control of the folded one",
}
MEASURES = {
    "rmse": ("RMSE", 4, "≤ 0.125"),
    "spearman": ("Spearman", 3, "≥ 0.75"),
    "pearson": ("Pearson", 3, "≥ 0.50"),
    "ause": ("AUSE", 3, "falling"),
    "ence": ("ENCE", 3, "falling"),
    "nll": ("NLL", 3, ""),
    "ood_auroc": ("OOD AUROC", 3, ""),
}
FOLDED_LIMIT = 1.15  # RMSE of the folded autoencoder over that of the end-to-end one, at most
FOLLOWED = 2_000  # validation images that are measured after every epoch
SHOWN = 6  # test images of the picture

QUICK = {
    "epochs": 5,
    "batch_size": 128,
    "lr": 3e-3,
    "clip": 1.0,
    "wide": 12,
    "hidden": 256,
    "bottleneck": 32,
    "image_deviation": 0.05,
    "hidden_deviation": 0.3,
    "reconstruction": 1.0,
    "validation": 5_000,
    "train_size": None,
}
FULL = {**QUICK, "epochs": 40, "wide": 32, "hidden": 1024}
SIZES = {"quick": QUICK, "full": FULL}
SEEDS = (0, 1, 2)
MEMBERS = 5


@final
class Figure2(Experiment):
    """Every network of it has the same size; the ensemble has five of them."""

    name: ClassVar[str] = "figure2"
    summary: ClassVar[str] = "the Gaussian autoencoder: predicted variance against true error, end to end and folded"

    def jobs(self, size: str) -> list[Job]:
        common = SIZES[size]
        plan = [("gaussian", SEEDS), ("frozen", SEEDS), ("plain", range(MEMBERS)), ("folded", SEEDS)]
        jobs = [_job(method, seed, common) for method, seeds in plan for seed in seeds]
        return [*jobs, Job("ensemble-seed0", {**common, "method": "ensemble", "seed": 0, "members": MEMBERS})]

    def run(self, job: Job, place: Place) -> Row:
        device = find_device(place.device)
        data = _load("fashion-mnist", place, job.settings["validation"], job.settings["train_size"])
        other = _load("mnist", place, 0, None).test
        if job.settings["method"] == "ensemble":
            return _ensemble(job, place, data, other, device)
        curves, predict = _learn(job, place, data, device)
        return {"curves": curves, **_measured(job, predict, data, other, device)}

    def write(self, rows: Sequence[Row], folder: Path) -> str:
        from blocklocal.report.save import save_figure
        from experiments.uncertainty_plots import curves_figure, examples_figure

        examples = [(LABELS[row["method"]], row["examples"]) for row in rows if row.get("examples")]
        if examples:
            save_figure(examples_figure(examples), folder, "figure2-examples")
        curves = [(LABELS[row["method"]], row["curves"]) for row in _one_each(rows) if row.get("curves")]
        if curves:
            save_figure(curves_figure(curves), folder, "figure2-mismatch")
        return "\n\n".join([_table(rows), *_notes(rows)]) + "\n"


def _job(method: str, seed: int, common: dict[str, Any]) -> Job:
    return Job(f"{method}-seed{seed}", {**common, "method": method, "seed": seed})


def _load(name: str, place: Place, validation: int, train_size: int | None) -> ImageSet:
    return load_images(find_set(name, place.data), validation=validation, train_size=train_size)


# --- one measurement


def _learn(job: Job, place: Place, data: ImageSet, device: torch.device) -> tuple[dict[str, list], Predictor]:
    """Train, follow the validation images, and keep the network; returns (curves over epochs, what it predicts).

    Raises Stopped after an epoch at whose end there is a wish to stop; the job starts again then.
    """
    settings, followed = job.settings, first(data.validation, FOLLOWED)
    curves: dict[str, list] = {"epoch": [], "loss": []}
    network, predict = None, None
    for epoch, (network, loss) in enumerate(train(settings["method"], settings, data, device), 1):
        if epoch < settings["epochs"] and place.should_stop():
            raise Stopped
        plain = settings["method"] == "plain"
        predict = constant_variance([network], data.train, device) if plain else own_variance(network)
        measured = _mismatch(job, *predict_all(predict, followed, device))
        for name, value in {"epoch": epoch, "loss": loss, **measured}.items():
            curves.setdefault(name, []).append(value)
    assert network is not None, "settings have at least one epoch"
    assert predict is not None
    save_network(place.folder / "network.pt", network, settings)
    return curves, predict


def _ensemble(job: Job, place: Place, data: ImageSet, other: Images, device: torch.device) -> Row:
    """Members are the plain jobs' networks where they lie beside this job's folder; others are trained here."""
    common = {name: value for name, value in job.settings.items() if name not in ("method", "seed", "members")}
    networks = []
    for seed in range(job.settings["seed"], job.settings["seed"] + job.settings["members"]):
        member = _job("plain", seed, common)
        network = build(member.settings, data, device)
        path = place.folder.parent / member.name / "network.pt"
        if not load_network(path, network, member.settings):
            *_, (network, _) = train("plain", member.settings, data, device)
        networks.append(network)
    return _measured(job, constant_variance(networks, data.train, device), data, other, device)


def _measured(job: Job, predict: Predictor, data: ImageSet, other: Images, device: torch.device) -> Row:
    """The test set, once: mismatch, variance of images from elsewhere, and a few images to show."""
    mean, variance, image = predict_all(predict, data.test, device)
    inside, outside = variance.flatten(1).mean(1), predict_all(predict, other, device)[1].flatten(1).mean(1)
    row: Row = {**_mismatch(job, mean, variance, image), "ood_auroc": auroc(inside, outside)}
    if job.settings["seed"] == 0 and job.settings["method"] in ("gaussian", "folded"):
        row["examples"] = _examples(mean, variance, image, job.settings["image_deviation"] ** 2)
    return row


def _mismatch(job: Job, mean: Tensor, variance: Tensor, image: Tensor) -> dict[str, float | None]:
    given = job.settings["image_deviation"] ** 2
    measured = asdict(mismatch(variance, (image - mean).square(), own_variance=given))
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def _examples(mean: Tensor, variance: Tensor, image: Tensor, given: float) -> dict[str, list]:
    """The first images of the test set, [N][H][W] of the first channel, rounded: a row is stored as text."""
    shown = {
        "image": image,
        "mean": mean,
        "squared_error": (image - mean).square(),
        "variance": (variance - given).clamp_min(0),  # that of the error: less what the data are said to have
    }
    return {name: _rounded(values[:SHOWN, 0].cpu()) for name, values in shown.items()}


def _rounded(values: Tensor) -> list:
    flat = [float(f"{value:.3g}") for value in values.flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).view(values.shape).tolist()


# --- tables


def _one_each(rows: Sequence[Row]) -> list[Row]:
    """The row of the lowest seed of every method, in the order of LABELS."""
    lowest = {row["method"]: row for row in sorted(rows, key=lambda row: -row["seed"])}
    return [lowest[method] for method in LABELS if method in lowest]


def _table(rows: Sequence[Row]) -> str:
    headings = ["network", *(heading for heading, _, _ in MEASURES.values()), "RMSE ÷ end to end", "seeds"]
    body = [["*aim*", *(aim for _, _, aim in MEASURES.values()), f"≤ {FOLDED_LIMIT} (folded)", ""]]
    reference = [row["rmse"] for row in rows if row["method"] == "gaussian"]
    for method, label in LABELS.items():
        own = [row for row in rows if row["method"] == method]
        if own:
            figures = [mean_spread([row[key] for row in own], digits) for key, (_, digits, _) in MEASURES.items()]
            ratio = mean(row["rmse"] for row in own) / mean(reference) if reference else None  # type: ignore[operator]
            body.append([label, *figures, number(ratio, 3), str(len(own))])
    return markdown_lines(headings, body)


def _notes(rows: Sequence[Row]) -> list[str]:
    followed = [row for row in _one_each(rows) if row["method"] in ("gaussian", "folded") and row.get("curves")]
    notes = [_falls(row) for row in followed]
    return [*notes, _CONDITIONS, _settings(rows[0]), measured_with(rows)] if rows else []


def _settings(row: Row) -> str:
    size = f"{row['wide']} and {2 * row['wide']} channels, {row['hidden']} hidden units, bottleneck {row['bottleneck']}"
    return (
        f"Every network: {size}. Fashion-MNIST, all training images but {row['validation']:,} for validation; batches "
        f"of {row['batch_size']}, Adam, one-cycle to {row['lr']:g}, s₀ = {row['image_deviation']:g}."
    )


def _falls(row: Row) -> str:
    """How the mismatch of the validation images went, in words."""
    curves = row["curves"]
    parts = [
        f"{MEASURES[key][0]} {number(curves[key][0], 3)} → {number(curves[key][-1], 3)}" for key in ("ause", "ence")
    ]
    return f"{LABELS[row['method']]}, validation, epoch 1 → {curves['epoch'][-1]}: {', '.join(parts)}."


_CONDITIONS = (
    "Test set, measured once; mean ± deviation over seeds. Pixels in [0, 1]. A perfect predictor of Gaussian residuals "
    "reaches a Pearson correlation of 0.577 at most. ENCE and NLL are of data with the variance s₀² that the networks "
    "are told. OOD AUROC: the chance that an MNIST test image has a larger mean predicted variance than one of "
    "Fashion-MNIST. A constant variance has no order: its correlations are not defined, and its AUROC is 0.5."
)


EXPERIMENTS.add("figure2", Figure2())
