"""What is taken for what. Oracles: torchmetrics, and a loop over the targets."""

import json
from collections import Counter

import pytest
import torch
from run_helpers import summary, tiny, whole
from torch import nn

from blocklocal import BlockLocal, evaluate, split
from blocklocal.block.targets import MISSING, Classes, Labels
from blocklocal.training.confusion import confusion_counts

pytestmark = pytest.mark.usefixtures("no_reports")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_counts_of_classes_are_those_of_torchmetrics():
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # seconds, which others can spare

    logits, wanted = drawn(500, 7), torch.randint(7, (500,), generator=torch.Generator().manual_seed(1))
    matrix = torch.zeros(7, 7, dtype=torch.long)
    for asked, answered, count in confusion_counts(Classes(7), logits, wanted):
        matrix[asked, answered] = count
    assert torch.equal(matrix, multiclass_confusion_matrix(logits, wanted, num_classes=7))


@pytest.mark.parametrize("kind", [torch.int64, torch.int16, torch.uint8])
def test_every_position_of_a_sequence_counts_and_a_missing_one_does_not(kind):
    logits, wanted = drawn(4, 6, 5), (torch.arange(24) % 5).view(4, 6)
    if kind is not torch.uint8:  # which has no -100
        wanted[0, :3] = MISSING
    expected = Counter(
        (wanted[b, t].item(), logits[b, t].argmax().item())
        for b in range(4)
        for t in range(6)
        if wanted[b, t] != MISSING
    )
    found = confusion_counts(Classes(5), logits, wanted.to(kind))
    assert {(asked, answered): count for asked, answered, count in found} == expected
    assert found == sorted(found)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_binary_labels_count_no_and_yes_of_each_label(kind):
    logits, wanted = drawn(40, 3), (drawn(40, 3, seed=1) > 0).long()
    wanted[:5, 1] = MISSING
    expected: Counter[tuple[int, int]] = Counter()
    for b in range(40):
        for j in range(3):
            if wanted[b, j] != MISSING:
                expected[2 * j + wanted[b, j].item(), 2 * j + int(logits[b, j] > 0)] += 1
    found = confusion_counts(Labels(3), logits, wanted.to(kind))
    assert {(asked, answered): count for asked, answered, count in found} == expected


@pytest.mark.parametrize("targets", [{"classes": 5}, {"labels": 5}])
def test_the_diagonal_is_the_accuracy(targets):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
    x, y = drawn(24, 4), torch.arange(24) % 5
    if "labels" in targets:
        y = nn.functional.one_hot(y, 5)
    found = evaluate(BlockLocal(split(model, 2), **targets, readout=0), zip(x.split(10), y.split(10), strict=True))
    right = sum(count for asked, answered, count in found.confusion if asked == answered)
    assert 100 * right / sum(count for *_, count in found.confusion) == pytest.approx(found.top1)


def test_a_run_keeps_the_counts_of_its_test_images(tmp_path):
    run = whole(tiny(epochs=1), tmp_path / "run")
    stored, row = json.loads((run / "confusion.json").read_text()), summary(run)
    assert stored["names"] == [str(digit) for digit in range(10)]
    assert sum(count for *_, count in stored["counts"]) == row["test_size"]
    right = sum(count for asked, answered, count in stored["counts"] if asked == answered)
    assert 100 * right / row["test_size"] == pytest.approx(row["test_top1"])
