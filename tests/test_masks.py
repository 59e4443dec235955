"""Oracle: sequences without padding. Padding that a mask marks changes no loss, no gradient and no score."""

import pytest
import torch
from torch import Tensor

from blocklocal.block import objectives
from blocklocal.block.auxiliary import Reconstructor, similarity
from blocklocal.block.objectives import OBJECTIVES, Terms
from blocklocal.block.targets import MISSING, Asked, Classes, Target, Values
from blocklocal.families import family

CLASSES, UNITS, LONG, SHORT = 3, 4, 5, 2
MATCHING = [name for name in OBJECTIVES.names() if OBJECTIVES.get(name).matches]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def loss_and_gradient(name: str, phi: Tensor, y: Asked, terms: Terms, positions: int) -> tuple[Tensor, Tensor]:
    phi = phi.clone().requires_grad_()
    table = draw(CLASSES, positions, UNITS)
    loss = OBJECTIVES.get(name).compute(family("bernoulli"), phi, table, Classes(CLASSES), y, terms)[0]
    return loss.detach(), torch.autograd.grad(loss, phi)[0]


@pytest.mark.parametrize("name", MATCHING)
@pytest.mark.parametrize("order", ["exact", "second"])
def test_a_samples_padding_changes_neither_its_loss_nor_its_gradient(name, order):
    phi, y = draw(1, SHORT, UNITS), torch.tensor([1])
    padded = torch.cat([phi, 100 * draw(1, LONG - SHORT, UNITS)], 1)
    mask = torch.arange(LONG)[None] < SHORT
    alone, gradient = loss_and_gradient(name, phi, y, Terms(order=order), 1)
    found, of_padded = loss_and_gradient(name, padded, y, Terms(order=order, mask=mask), 1)
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(of_padded[:, :SHORT], gradient)
    assert not of_padded[:, SHORT:].any()


@pytest.mark.parametrize("name", MATCHING)
@pytest.mark.parametrize("per_position", [False, True])
def test_what_has_no_target_is_left_out_of_every_local_loss(name, per_position):
    phi = draw(4, SHORT, UNITS)
    y = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 1]]) if per_position else torch.tensor([0, 1, 2, 0])
    missing = y.clone()
    missing[2:] = MISSING
    terms = Terms(per_position=per_position)
    alone, gradient = loss_and_gradient(name, phi[:2], y[:2], terms, 1)
    found, of_all = loss_and_gradient(name, phi, missing, terms, 1)
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(of_all[:2], gradient)
    assert not of_all[2:].any()


def test_padding_is_left_out_of_the_similarity():
    h, one_hot = draw(3, SHORT, UNITS), torch.eye(3, dtype=torch.float64)
    padded = torch.cat([h, 100 * draw(3, LONG - SHORT, UNITS)], 1).requires_grad_()
    found = similarity(padded, one_hot, (torch.arange(LONG) < SHORT).expand(3, LONG))
    torch.testing.assert_close(found, similarity(h, one_hot))
    found.backward()
    assert padded.grad is not None
    assert not padded.grad[:, SHORT:].any()


# --- weights beside padding

REAL = torch.arange(LONG)[None] < torch.tensor([[LONG], [SHORT], [3], [LONG]])
ASKED = {
    "classes": (Classes(CLASSES), torch.randint(0, CLASSES, (4, LONG), generator=torch.Generator().manual_seed(1))),
    "weighted classes": (Classes(CLASSES, (1, 3, 2)), torch.arange(4 * LONG).view(4, LONG) % CLASSES),
    "soft targets": (Classes(CLASSES), draw(4, LONG, CLASSES).softmax(-1)),
    "values": (Values(2), draw(4, LONG, 2)),
}


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("weighted", ["not", "by sample", "by position"])
def test_targets_of_padding_count_nowhere_whatever_their_weight(kind, weighted):
    targets, y = ASKED[kind]
    weight = {"not": None, "by sample": draw(4).square(), "by position": draw(4, LONG).square()}[weighted]
    each = None if weight is None else (weight if weight.dim() > 1 else weight.unsqueeze(1).expand(4, LONG))[REAL]
    logits = draw(4, LONG, targets.rows)
    padded = targets.without_padding(y if weight is None else Target(y, weight), REAL)
    alone = y[REAL] if each is None else Target(y[REAL], each)
    torch.testing.assert_close(targets.loss(logits, padded), targets.loss(logits[REAL], alone))
    torch.testing.assert_close(targets.weights(padded)[REAL], targets.weights(alone))
    assert not targets.weights(padded)[~REAL].any()
    assert not targets.one_hot(padded)[~REAL].any()
    torch.testing.assert_close(targets.measure(logits, padded), targets.measure(logits[REAL], y[REAL]))


@pytest.mark.parametrize("name", MATCHING)
def test_a_padded_sample_of_weight_two_counts_as_two(name):
    phi, y = draw(2, LONG, UNITS), torch.tensor([1, 2])
    twice, mask = torch.tensor([0, 0, 1]), REAL[1:3]
    terms = Terms(mask=mask)
    found, gradient = loss_and_gradient(name, phi, Target(y, torch.tensor([2.0, 1.0])), terms, 1)
    expected, of_each = loss_and_gradient(name, phi[twice], y[twice], Terms(mask=mask[twice]), 1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.stack([of_each[0] + of_each[1], of_each[2]]))


@pytest.mark.parametrize("part", ["similarity", "reconstruction"])
def test_parts_leave_out_padding_and_a_sample_of_weight_zero(part):
    weight, kept = torch.tensor([1.0, 0, 2, 1]), torch.tensor([0, 2, 3])
    h, changed = draw(4, LONG, UNITS), draw(4, LONG, UNITS)
    changed[~REAL] += 100
    changed[1] += 100

    def loss(h: Tensor, of: Tensor) -> Tensor:
        if part == "similarity":
            return similarity(h[of], torch.eye(CLASSES, dtype=h.dtype)[of % CLASSES], REAL[of], weight[of])
        decoder = Reconstructor(h.shape, h.shape).double()
        return decoder.loss(h[of], h[of], REAL[of], weight[of])

    torch.manual_seed(0)
    expected = loss(h, kept)
    torch.manual_seed(0)
    torch.testing.assert_close(loss(changed, torch.arange(4)), expected)


def test_what_is_neither_masked_nor_weighted_rounds_as_a_plain_mean_does():
    each = torch.rand(6, UNITS, 9).transpose(1, 2)  # as maps lie in memory
    for y in (torch.zeros(6, dtype=torch.int64), torch.zeros(6, 9, dtype=torch.int64)):
        assert torch.equal(objectives._mean(each, Classes(CLASSES), y, Terms()), each.mean())
