"""The loss of hidden blocks normalised over the tokens of a batch and some of the others."""

import pytest
import torch
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.block.pieces import cross_entropy_in_pieces

ROWS, UNITS = 40, 6
H = torch.randn(9, UNITS, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(ROWS, UNITS, generator=torch.Generator().manual_seed(1))
PRIOR = torch.linspace(-1, 1, ROWS)
Y = torch.tensor([3, 3, 17, 39, -100, 0, 8, 17, 21])


def loss(share: float, h: torch.Tensor = H, draw: int = 0, prior: torch.Tensor | None = PRIOR) -> torch.Tensor:
    torch.manual_seed(draw)
    return cross_entropy_in_pieces(h, TABLE, prior, Y, 1.0, share).loss


@pytest.mark.parametrize("prior", [PRIOR, None], ids=["prior", "uniform"])
def test_in_the_mean_over_draws_the_sum_is_that_over_all_rows(prior):
    there = Y >= 0
    logits = H @ TABLE.T + (0 if prior is None else prior)
    whole = logits.exp().sum(-1)[there]
    own = logits.gather(1, Y.clamp(min=0).unsqueeze(1)).squeeze(1)[there]
    for position in range(len(whole)):
        one = torch.full_like(Y, -100)
        one[there.nonzero()[position]] = Y[there][position]
        sums = []
        for draw in range(400):
            torch.manual_seed(draw)
            found = cross_entropy_in_pieces(H, TABLE, prior, one, 1.0, 0.3).loss
            sums.append((found + own[position]).exp())  # loss = log(sum) - own
        spread = torch.stack(sums).std() / len(sums) ** 0.5
        assert abs(torch.stack(sums).mean() - whole[position]) < 4 * spread + 1e-4


def test_all_rows_are_the_whole_loss_and_few_are_an_estimate_of_it():
    expected = torch.nn.functional.cross_entropy(H @ TABLE.T + PRIOR, Y)
    torch.testing.assert_close(loss(1.0), expected)
    found = torch.stack([loss(0.5, draw=draw) for draw in range(200)])
    assert found.std() > 0
    assert abs(found.mean() - expected) < 0.1 * expected


def test_gradients_are_those_of_the_loss_over_the_rows_that_were_drawn():
    h, prior = H.clone().double().requires_grad_(), PRIOR.clone().double().requires_grad_()

    def drawn(h, prior):
        torch.manual_seed(5)
        return cross_entropy_in_pieces(h, TABLE.double(), prior, Y, 1.0, 0.4).loss

    torch.autograd.gradcheck(drawn, (h, prior))


def network(negatives: float, **settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(ROWS, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, ROWS))
    x = torch.randint(0, ROWS, (3, 5), generator=torch.Generator().manual_seed(2))
    given = {"tokens": ROWS, **settings}
    return bl.BlockLocal(bl.split(model, at=["3"]), example=x, readout=0, negatives=negatives, **given)


def test_what_a_block_predicts_is_over_all_tokens_and_so_is_its_loss_in_evaluation():
    x = torch.randint(0, ROWS, (3, 5), generator=torch.Generator().manual_seed(2))
    few, all_of_them = network(0.2), network(1.0)
    for one, other in zip(few.block_logits(x), all_of_them.block_logits(x), strict=True):
        assert torch.equal(one, other)
    first, second = (net.learners[0] for net in (few.eval(), all_of_them.eval()))
    message, _ = first.message(few.learners[-1].message(few.rows)[1])
    given = [each.local(each(x), x, message=message, wanted={}, mix=1.0).loss for each in (first, second)]
    assert torch.equal(*given)
    few.train()
    assert not torch.equal(first.local(first(x), x, message=message, wanted={}, mix=1.0).loss, given[0])


@pytest.mark.parametrize("share", [0.0, 1.5, "half"])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="negatives must be a number above 0"):
        network(share)


def test_classes_and_evidence_of_higher_order_have_no_negatives_to_draw():
    with pytest.raises(InputError, match=r"negatives=0\.5 draws some of the many tokens of a text"):
        network(0.5, tokens=None, classes=ROWS)
    with pytest.raises(InputError, match="to first order"):
        network(0.5, order="exact", twin="dense")
