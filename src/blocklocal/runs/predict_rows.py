"""What a trained run says of the rows of a table or of series: lines of CSV or JSON."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal.data.arrays import load_series
from blocklocal.data.frame import read_frame
from blocklocal.data.samples import SampleBatches, Samples
from blocklocal.network.network import Prediction
from blocklocal.runs.build import EVALUATION_BATCH, DatasetInfo
from blocklocal.runs.run import block_names, load_network


@needs("data")
def predict_rows(
    run: Path,
    file: Path,
    *,
    as_json: bool = False,
    checkpoint: str | None = None,
    device: str = "auto",
    trust: bool = False,
    visit: int | None = None,
) -> Iterator[str]:
    """A line per row (counted from 1), batch by batch; as CSV, the names of its columns first.

    Raises:
        InputError: the file does not fit the run, or the network predicts no numbers.
    """
    _, facts, network = load_network(run, checkpoint, device, trust=trust, visit=visit)
    x = _rows(file, facts)
    known = (facts.mean, facts.std) if facts.kind == "series" else ((), ())
    samples = Samples(x, torch.zeros(len(x), dtype=torch.int64))
    batches = SampleBatches(samples, batch_size=EVALUATION_BATCH, mean=known[0], std=known[1], device=network.device)
    if not as_json:
        yield _line(["row", "prediction", "confidence"])
    row = 0
    for part, _ in batches:
        prediction = network.predict(part)
        if not bool(prediction.probabilities.isfinite().all()):
            raise InputError(f"the network of {run} predicts no numbers: give an older --checkpoint, or train it anew.")
        for i in range(len(part)):
            row += 1
            said = {"row": row, **_answer(prediction, i, facts)}
            if as_json:
                yield json.dumps(said | {"blocks": _blocks(prediction, i, facts, block_names(network))})
            else:
                yield _line([row, said["prediction"], f"{said['confidence']:.6f}"])


def _rows(file: Path, facts: DatasetInfo) -> Tensor:
    if facts.features is not None:
        return facts.features.encode(read_frame(file))
    x = load_series(file)
    if tuple(x.shape[1:]) != facts.shape:
        raise InputError(f"{file} has series {list(x.shape[1:])} (channels, steps), the run takes {list(facts.shape)}.")
    return x


def _answer(prediction: Prediction, i: int, facts: DatasetInfo) -> dict:
    return {
        "prediction": facts.classes[int(prediction.label[i])],
        "confidence": prediction.confidence[i].item(),
        "probabilities": dict(zip(facts.classes, prediction.probabilities[i].tolist(), strict=True)),
    }


def _blocks(prediction: Prediction, i: int, facts: DatasetInfo, names: Sequence[str]) -> list[dict]:
    named = zip(names, prediction.blocks, strict=True)
    said = [{"block": name, **_answer(each, i, facts)} for name, each in named if each is not None]
    together = prediction.combined
    return said if together is None else [*said, {"block": "ensemble", **_answer(together, i, facts)}]


def _line(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
