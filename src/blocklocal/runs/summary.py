"""The result of a run: `summary.json`, and `confusion.json` beside it."""

import time
from dataclasses import asdict
from typing import Any

import torch

from blocklocal.runs.build import RunContext
from blocklocal.runs.facts import AnyPart
from blocklocal.runs.sets import evaluation_batches
from blocklocal.schemas.run import summarised
from blocklocal.training.best import best_epoch, out_of_patience
from blocklocal.training.evaluation import Evaluation, evaluate
from blocklocal.training.loop import Trainer


def summarise(session: RunContext, trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run in one flat object, measured on the test split; a key that does not apply is None.

    Accuracies are in percent. train_top1 is of as many training samples as the test split has: enough to see
    overfitting.

    Returns:
        The summary, and its confusion matrix (`schemas.run.Confusion`), which is too large for a row of a table.
    """
    config, network, data = session.config, session.network, session.data
    started = time.perf_counter()
    test = _evaluate(session, data.test)
    train = _evaluate(session, data.train.subset(slice(0, len(data.test))))
    last = trainer.records[-1] if trainer.records else {}
    kind = "labels" if session.facts.predicts_labels else "classes"
    confusion = {"of": kind, "names": list(data.classes), "counts": test.confusion}
    losses = [learner.local for learner in network.learners]
    summary = {
        "rule": config.learning.rule,
        **_local_settings(session),
        "model": config.model.model,
        "width": config.model.width,
        "parameters": sum(p.numel() for p in network.split.model.parameters()),
        "local_parameters": sum(p.numel() for local in losses if local for p in local.parameters()),
        "blocks": len(network.split.blocks),
        "block_names": list(network.split.names),
        "processes": max(1, len(session.placement)) * session.replicas,
        "placement": list(session.placement) or None,
        "replicas": session.replicas,
        **summarised(config.flat()),
        "data": data.name,
        "train_size": len(data.train),
        "validation_size": len(data.validation),
        "test_size": len(data.test),
        "skipped": data.skipped,
        "epochs": config.optimisation.epochs,
        "kept_epoch": _kept(session, trainer),
        "stopped": _stopped(session, trainer),
        "seed": config.machine.seed,
        "threads": session.threads,
        "device": str(session.device),
        "torch": torch.__version__,
        "test_top1": test.top1,
        "test_top3": test.top3,
        "train_top1": train.top1,
        "validation_top1": last.get("validation_top1", [None])[-1],
        "test_nll": test.nll,
        "test_ece": test.ece,
        "block_test_top1": [accuracy for accuracy in test.block_top1 if accuracy is not None],
        "combined_test_top1": test.combined_top1,
        **_measured(test, train, last),
        "seconds": trainer.seconds,
        "images_per_second": trainer.images / trainer.seconds if trainer.seconds else None,
        "evaluation_seconds": time.perf_counter() - started,
        "finished": True,
    }
    return summary, confusion


def _kept(session: RunContext, trainer: Trainer) -> int | None:
    """The epoch, from 1, whose weights these are, where the best one was kept."""
    keeps = session.config.machine.keep == "best" and trainer.records
    return best_epoch(trainer.records) + 1 if keeps else None


def _stopped(session: RunContext, trainer: Trainer) -> str | None:
    """Why there are fewer epochs than were asked for."""
    patience, first = session.config.optimisation.patience, trainer.first_epoch
    short = len(trainer.records) < session.config.optimisation.epochs
    return out_of_patience(trainer.records, patience, first) if short and patience is not None else None


def _measured(test: Evaluation, train: Evaluation, last: dict[str, Any]) -> dict[str, Any]:
    """What is measured beside the accuracy: errors of values, the overlap of pixels."""
    found: dict[str, Any] = {}
    for name, blocks in test.measured.items():
        if name != "top1":
            found |= {
                f"test_{name}": blocks[-1],
                f"train_{name}": train.measured[name][-1],
                f"validation_{name}": last.get(f"validation_{name}", [None])[-1],
                f"block_test_{name}": [value for value in blocks if value is not None],
                f"combined_test_{name}": test.combined.get(name),
            }
    return found


def _evaluate(session: RunContext, images: AnyPart) -> Evaluation:
    return evaluate(session.network, evaluation_batches(session.config, images, session.facts, session.device))


def _local_settings(session: RunContext) -> dict[str, Any]:
    """The settings of the losses; None where the rule has no use for one, or fixes it itself."""
    learning, rule = asdict(session.network.learning), session.network.rule
    own_loss = rule.own_losses
    kept = {"label_smoothing"}
    if not rule.whole and (own_loss or rule.twin is not None):
        kept |= {"family", "rectified_temperature", "categorical_size"}
    if own_loss:
        kept |= set(learning) if rule.parts else {"scope", "tau"}
    settings = {name: value if name in kept else None for name, value in learning.items() if name != "rule"}
    return settings | {"objective": rule.objective_of(learning["objective"]) if own_loss else None}
