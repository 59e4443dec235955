"""A run's trained model as a folder for others, with a model card that has the run's measured table."""

from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal.models.file import is_reference
from blocklocal.network.network import BlockLocal
from blocklocal.network.pretrained import HOW_TO_LOAD, model_card
from blocklocal.runs.build import DatasetInfo
from blocklocal.runs.config import Config
from blocklocal.runs.fit import block_names
from blocklocal.runs.looking import load_network
from blocklocal.runs.saved import SUMMARY, read_summary


def export_run(run: Path, folder: Path, checkpoint: str | None = None, *, trust: bool = False) -> Path:
    """Write the model of a run: safetensors, config.json, README.md.

    Args:
        folder: a new or empty one.
        checkpoint: default: that of the best epoch where the run keeps it, else the newest.

    Returns:
        The folder.

    Raises:
        InputError: there is no trained run, the folder holds other things, or the model's code may not run (`trust`).
    """
    config, facts, network = load_network(run, checkpoint, "cpu", trust=trust)
    if not isinstance(network, BlockLocal):
        raise InputError(f"{run} cannot be exported: its network is not whole.")
    return network.save_pretrained(folder, card=_card(run, config, facts, network), config=_facts(config, facts))


def _facts(config: Config, facts: DatasetInfo) -> dict[str, Any]:
    """What whoever builds and feeds the model must know."""
    m = config.model
    model = {"name": m.model, "width": m.width, "options": m.model_options}
    return {"model": model, "image_size": [facts.channels, facts.height, facts.width], **facts.flat()}


def _card(run: Path, config: Config, facts: DatasetInfo, network: BlockLocal) -> str:
    m, learning = config.model, config.learning
    lines = [
        f"{m.model}, trained on {config.data.data} as {len(network.split.blocks)} blocks by blocklocal, under the rule "
        f"{learning.rule}.",
        "",
        *_measured(run, network),
        "",
        *HOW_TO_LOAD,
        "",
        *_build(config, facts),
        "",
        f"Classes: {', '.join(facts.classes)}. Images are {facts.channels}x{facts.height}x{facts.width}; pixels from 0 "
        "to 255 minus `mean`, divided by `std`, which are in config.json.",
    ]
    return model_card(f"{m.model} on {config.data.data}", lines, [learning.rule, "image-classification"])


def _measured(run: Path, network: BlockLocal) -> list[str]:
    """The table of the run's result."""
    if not is_there(run / SUMMARY):
        return ["The run is not finished, so nothing has been measured on test images."]
    result = read_summary(run)
    names = block_names(network)
    scores = result["block_test_top1"]
    names = names if len(names) == len(scores) else names[-len(scores) :]
    rows = [(f"block {name}", score) for name, score in zip(names, scores, strict=True)]
    rows += [("all blocks together", result["combined_test_top1"]), ("output", result["test_top1"])]
    table = [f"| {name} | {score:.2f} |" for name, score in rows if score is not None]
    said = f"Measured on {result['test_size']} test images, seed {result['seed']}, torch {result['torch']}."
    more = [
        f"Negative log-likelihood {result['test_nll']:.4f} nats"
        + ("." if result["test_ece"] is None else f"; calibration error {result['test_ece']:.4f}.")
    ]
    return ["## Measured", "", said, *more, "", "| prediction | test accuracy, % |", "| --- | ---: |", *table]


def _build(config: Config, facts: DatasetInfo) -> list[str]:
    """How the module is built."""
    m = config.model
    if is_reference(m.model):
        return [f"The module is made by `{m.model.rpartition(':')[2]}` of the run's own code."]
    options = "".join(f", {name}={value!r}" for name, value in m.model_options.items())
    width = "" if m.width is None else f", width={m.width}"
    size = f"image_size=({facts.height}, {facts.width})"
    call = f"classes={len(facts.classes)}, channels={facts.channels}, {size}{width}{options}"
    return ["The module is", "", "```python", f'blocklocal.build_model("{m.model}", {call})', "```"]
