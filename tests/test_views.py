"""Learning from two views of samples without labels. Oracles: the papers' formulas by hand, and samples left out."""

import pytest
import torch
import torch.nn.functional as F

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.block.targets import MISSING, Classes
from blocklocal.block.views import REDUNDANCY, barlow_twins, consistency
from blocklocal.training.evaluation import evaluate


def test_consistency_is_the_cross_entropy_with_the_sure_answers_to_the_first_view():
    targets = Classes(3)
    first = torch.tensor([[9.0, 0, 0], [0.1, 0, 0], [0, 9.0, 0], [0, 0, 9.0]])
    second = torch.randn(4, 3, requires_grad=True)
    y = torch.tensor([MISSING, MISSING, MISSING, 1])  # the second is not sure, the last has a label
    found = consistency(targets, torch.cat([first, second]), torch.cat([y, y]))
    expected = F.cross_entropy(second[[0, 2]], torch.tensor([0, 1]), reduction="sum") / 3
    torch.testing.assert_close(found, expected)


def test_the_first_view_teaches_and_does_not_learn():
    scores = (9 * torch.eye(3)).requires_grad_()
    other = torch.randn(3, 3, requires_grad=True)
    consistency(Classes(3), torch.cat([scores, other]), torch.full((6,), MISSING)).backward()
    assert not scores.grad.any()
    assert other.grad.any()


def test_nothing_is_learned_where_all_have_labels():
    assert consistency(Classes(3), 9 * torch.eye(6)[:, :3], torch.zeros(6, dtype=torch.long)) == 0


def test_barlow_twins_is_the_formula_of_the_paper():
    z = torch.randn(40, 5)
    a, b = z.double().chunk(2)
    a, b = ((each - each.mean(0)) / each.std(0, correction=0) for each in (a, b))
    c = torch.einsum("bi,bj->ij", a, b) / 20
    expected = sum((1 - c[i, i]) ** 2 if i == j else REDUNDANCY * c[i, j] ** 2 for i in range(5) for j in range(5)) / 5
    assert barlow_twins(z).item() == pytest.approx(expected.item(), rel=1e-3)


def test_equal_views_of_units_that_tell_different_things_cost_nothing():
    z = torch.linalg.qr(torch.randn(64, 4) - 0)[0]
    z = torch.linalg.qr(z - z.mean(0))[0]
    z = z - z.mean(0)
    assert barlow_twins(torch.cat([z, z])).item() == pytest.approx(0, abs=2e-3)
    assert barlow_twins(torch.cat([z, z.flip(0)])) > 0.3


def dense(**settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = bl.build_model("mlp", classes=4, input_shape=(8,), width=32)
    return bl.BlockLocal(bl.split(model, 3), classes=4, **{"optimizer": bl.adam(lr=3e-3), "readout": 1, **settings})


def test_a_batch_that_holds_no_pairs_is_refused():
    x, y = torch.randn(7, 8), torch.full((7,), MISSING)
    for name in ("consistency", "barlow"):
        with pytest.raises(InputError, match="a batch of 7 does not hold two views"):
            dense(**{name: 1.0}).step(x, y)


def test_what_it_cannot_go_with_is_refused():
    with pytest.raises(InputError, match="consistency learns classes"):
        bl.BlockLocal(bl.split(bl.build_model("mlp", classes=1, input_shape=(8,)), 2), values=1, consistency=1.0)
    with pytest.raises(InputError, match="under objective='none' it answers nothing"):
        dense(objective="none", reconstruction=1.0, consistency=1.0)


@pytest.mark.parametrize("rule", ["block-local", "greedy", "backprop", "deep-supervision"])
def test_samples_without_labels_help(rule):
    """Four clouds, one label each: the rest is learned from views."""
    y = torch.arange(400) % 4
    centres = 3 * torch.eye(8)[:4]

    def view(seed: int) -> torch.Tensor:
        return centres[y] + 0.8 * torch.randn(400, 8, generator=torch.Generator().manual_seed(seed))

    known = torch.where(torch.arange(400) < 4, y, MISSING)

    def trained(**settings) -> float:
        net = dense(rule=rule, **settings)
        for seed in range(60):
            net.step(torch.cat([view(seed), view(1000 + seed)]), torch.cat([known, known]))
        return evaluate(net, [(view(5000), y)]).top1

    assert trained(consistency=1.0) > 95
    assert trained(consistency=1.0) >= trained()


def test_barlow_twins_alone_teaches_hidden_blocks():
    y = torch.arange(400) % 4
    noise = torch.randn(400, 8)

    def view(seed: int) -> torch.Tensor:
        own = torch.randn(400, 8, generator=torch.Generator().manual_seed(seed))
        return torch.cat([(2 * torch.eye(4)[y] + 0.3 * noise[:, :4]), 2 * own[:, 4:]], 1)

    net = dense(barlow=1.0)
    before = [p.clone() for p in net.split.blocks[0].parameters()]
    missing = torch.full((800,), MISSING)
    first = net.step(torch.cat([view(0), view(1)]), missing)
    for seed in range(1, 60):
        last = net.step(torch.cat([view(2 * seed), view(2 * seed + 1)]), missing)
    assert last[0].parts["barlow"] < 0.7 * first[0].parts["barlow"]
    assert any(not torch.equal(p, q) for p, q in zip(before, net.split.blocks[0].parameters(), strict=True))


@pytest.mark.parametrize("objective", ["evidence", "variational", "printed-eq8", "projection"])
def test_consistency_goes_with_every_objective_that_answers(objective):
    family = {"family": "bernoulli"} if objective == "printed-eq8" else {}
    net = dense(objective=objective, consistency=1.0, **family)
    x, y = torch.randn(16, 8), torch.full((16,), MISSING)
    result = net.step(x, y)
    assert all("consistency" in each.parts for each in result)


def test_padding_is_no_sample_without_a_label():
    scores = 9 * torch.eye(3)[torch.tensor([[0, 1, 2], [0, 1, 2]])]  # one sequence, two views, sure everywhere
    y = torch.tensor([[0, MISSING, MISSING], [0, MISSING, MISSING]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    second = scores.clone()
    second[1, 2] = torch.tensor([9.0, 0, 0])  # wrong at the padding
    assert consistency(Classes(3), second, y, mask) < 0.01
    assert consistency(Classes(3), second, y) > 1
