"""Early exit without this library: a program per block, and a manifest that says when a sample leaves.

A program takes what the block before gave, [B, …], and gives what the next block reads and the block's own logits
[B, C]. It is one of torch.export (`.pt2`) or of ONNX (`.onnx`), for batches of any size. docs/uncertainty.md has a
runner of thirty lines.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.files import write_text
from blocklocal._common.modes import kept_modes
from blocklocal.block.learner import BlockLearner
from blocklocal.block.targets import Classes
from blocklocal.network.edge import check_x
from blocklocal.network.exits import Exits
from blocklocal.network.network import BlockLocal
from blocklocal.network.pretrained import new_folder

ProgramFormat = Literal["torch", "onnx"]
MANIFEST = "manifest.json"
_SUFFIX = {"torch": ".pt2", "onnx": ".onnx"}


class Program(nn.Module):
    """One block with what it needs to answer: a → (what the next block reads, its logits)."""

    def __init__(self, learner: BlockLearner, message: Tensor | None, asked: bool):
        super().__init__()
        self.block, self.local, self.asked = learner.block, learner.local, asked
        self.register_buffer("message", None if message is None else message.detach().clone())

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        output = self.block(a)
        if not self.asked or self.local is None:
            return output, output.new_zeros(output.shape[0], 0)
        return output, self.local.scores(output, self.message)


def export_programs(
    network: BlockLocal,
    folder: Path | str,
    x: Tensor,
    exits: Exits,
    format: ProgramFormat | str = "torch",
    *,
    about: dict[str, Any] | None = None,
) -> Path:
    """Write a program per block and `manifest.json` into a new folder.

    The manifest holds `by` (the rule), and per block its `file`, its `threshold` (null: not asked; the last one always
    answers), the `weights` with which the logits of it and of the blocks before it are summed, and the `temperature` by
    which the sum is divided.

    Args:
        network: of classes, whose blocks pass one tensor on.
        folder: a new or empty one.
        x: an example batch [B, …], B ≥ 2.
        exits: when a sample leaves, as `FittedExits.for_budget` gives it.
        format: torch (torch.export) or onnx (needs the packages onnx and onnxscript).
        about: added to the manifest, such as how inputs are normalised.

    Returns:
        The folder.

    Raises:
        InputError: the network is asked for something else than one class per sample; a block passes several tensors
            on, or cannot be exported; or the folder holds other things.
    """
    if format not in _SUFFIX:
        raise InputError(f"programs are written as torch or onnx, not {format!r}.")
    if format == "onnx" and (find_spec("onnx") is None or find_spec("onnxscript") is None):
        raise InputError("programs of onnx need two more packages: pip install onnx onnxscript. Or give torch.")
    exits = _asked_alone(network, x, exits)
    if not isinstance(network.targets, Classes) or len(network.output_shape(x, training=False)) != 1:
        raise InputError("programs answer one class per sample, and this network is asked for something else.")
    a, place, entries = check_x(x, network.device), new_folder(folder), []
    with kept_modes([network]), torch.no_grad():
        network.eval()
        for k, (learner, message) in enumerate(zip(network.learners, network.own_messages(), strict=True)):
            if not isinstance(a, Tensor):
                raise InputError(f"block {k} passes several tensors on; a program takes one, and gives one.")
            program, file = Program(learner, message, exits.asks(k)).eval(), f"block{k + 1}{_SUFFIX[format]}"
            _write(program, a, place / file, format, network.split.names[k])
            entries.append(
                {
                    "file": file,
                    "threshold": exits.thresholds[k] if k < len(exits.thresholds) else None,
                    "weights": exits.shares(k),
                    "temperature": exits.temperature(k),
                }
            )
            a = learner(a)
    manifest = {"by": exits.by, "format": format, "classes": network.targets.count, **(about or {}), "blocks": entries}
    write_text(place / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return place


def _asked_alone(network: BlockLocal, x: Tensor, exits: Exits) -> Exits:
    """The same without thresholds of blocks that do not predict."""
    exits.check(len(network.learners))
    with kept_modes([network]), torch.no_grad():
        said = network.eval().block_logits(x)
    thresholds = zip(exits.thresholds, said[:-1], strict=True)
    return replace(exits, thresholds=tuple(None if logits is None else each for each, logits in thresholds))


def _write(program: Program, a: Tensor, file: Path, format: str, name: str) -> None:
    shapes: Any = ({0: torch.export.Dim("batch", min=1)},)
    try:
        exported = torch.export.export(program, (a,), dynamic_shapes=shapes)
        if format == "torch":
            torch.export.save(exported, file)
        else:
            torch.onnx.export(exported, (a,), file, input_names=["a"], output_names=["next", "logits"], verbose=False)
    except Exception as reason:  # whatever torch raises
        raise InputError(
            f"the block {name!r} cannot be exported as a program of {format} ({type(reason).__name__}: "
            f"{first_line(reason)}). Networks that are cut by running, as those of transformers, cannot be."
        ) from reason
