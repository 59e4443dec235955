"""Oracle: sequences without padding. Padding that a mask marks changes no loss, no gradient and no score."""

import pytest
import torch
from torch import Tensor

from blocklocal.block.auxiliary import similarity
from blocklocal.block.objectives import OBJECTIVES, Terms
from blocklocal.block.targets import MISSING, Classes
from blocklocal.families import family

CLASSES, UNITS, LONG, SHORT = 3, 4, 5, 2


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def loss_and_gradient(name: str, phi: Tensor, y: Tensor, terms: Terms, positions: int) -> tuple[Tensor, Tensor]:
    phi = phi.clone().requires_grad_()
    table = draw(CLASSES, positions, UNITS)
    loss = OBJECTIVES.get(name).compute(family("bernoulli"), phi, table, Classes(CLASSES), y, terms)[0]
    return loss.detach(), torch.autograd.grad(loss, phi)[0]


@pytest.mark.parametrize("name", OBJECTIVES.names())
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


@pytest.mark.parametrize("name", OBJECTIVES.names())
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
