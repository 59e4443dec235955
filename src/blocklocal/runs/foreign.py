"""Samples from elsewhere, as files, to see how well a run tells them from its own data."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.predict import image_batches, image_files
from blocklocal.runs.predict_rows import row_batches
from blocklocal.runs.sets import normalise


def foreign_batches(
    files: Sequence[Path], facts: DatasetInfo, device: torch.device, *, resize: bool = False
) -> Iterator[Tensor]:
    """Batches x as the network takes them, [B, …].

    Args:
        files: images and folders of them; or one file of rows, where the run reads these.
        resize: scale and crop images to the size the network takes.

    Raises:
        InputError: a file cannot be used.
    """
    if facts.kind == "images":
        for _, pixels, trouble in image_batches(image_files(files), facts, resize):
            if trouble is not None:
                raise trouble
            yield normalise(torch.stack(pixels), facts).to(device)
        return
    if len(files) != 1:
        raise InputError(f"this run reads rows: give one file of foreign ones, not {len(files)}.")
    for x, _ in row_batches(files[0], facts, device):
        yield x
