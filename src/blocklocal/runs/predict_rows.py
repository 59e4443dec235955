"""What a trained run says of the rows of a table or of series."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal.data.arrays import load_series
from blocklocal.data.frame import read_frame
from blocklocal.data.samples import SampleBatches, Samples
from blocklocal.runs.asking import Asking
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.looking import load_network
from blocklocal.runs.said import Said, check_numbers
from blocklocal.runs.sets import EVALUATION_BATCH
from blocklocal.runs.train import block_names


@needs("data")
def predict_rows(
    run: Path,
    file: Path,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    trust: bool = False,
    visit: int | None = None,
    how: Asking | None = None,
) -> Iterator[Said]:
    """What is said of each row (counted from 1), batch by batch.

    Args:
        how: what else is asked.

    Raises:
        InputError: the file does not fit the run, or the network predicts no numbers.
    """
    _, facts, network = load_network(run, checkpoint, device, trust=trust, visit=visit)
    names, row, how = block_names(network), 0, how or Asking()
    for part, _ in row_batches(file, facts, network.device):
        prediction = how.predict(network, part)
        check_numbers(prediction, run)
        for i in range(len(part)):
            row += 1
            yield Said("row", row, prediction, i, facts, names, how)


def row_batches(file: Path, facts: DatasetInfo, device: torch.device) -> SampleBatches:
    """The rows of a file in batches, with targets that say nothing.

    Raises:
        InputError: the file does not fit the run.
    """
    x = _rows(file, facts)
    known = (facts.mean, facts.std) if facts.kind == "series" else ((), ())
    samples = Samples(x, torch.zeros(len(x), dtype=torch.int64))
    return SampleBatches(samples, batch_size=EVALUATION_BATCH, mean=known[0], std=known[1], device=device)


def _rows(file: Path, facts: DatasetInfo) -> Tensor:
    if facts.features is not None:
        return facts.features.encode(read_frame(file))
    x = load_series(file)
    if tuple(x.shape[1:]) != facts.shape:
        raise InputError(f"{file} has series {list(x.shape[1:])} (channels, steps), the run takes {list(facts.shape)}.")
    return x
