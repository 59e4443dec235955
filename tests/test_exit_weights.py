"""How much blocks count in what all say together. Oracles: a pool that is drawn from, a grid of weights, and noise."""

import pytest
import torch
import torch.nn.functional as F

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.block.targets import MISSING, Classes, Labels, pooled
from blocklocal.exits import fit_exits
from blocklocal.exits.weights import MOST, KeptLogits, fit_weights
from blocklocal.network.prediction import Temperatures
from blocklocal.uncertainty.measures import calibration_error

N, C = 20_000, 5


def drawn(weights, *, scale=2.0):
    """Logits of three blocks, and classes drawn from the normalised product of their powers."""
    logits = [scale * torch.randn(N, C) for _ in weights]
    return logits, torch.multinomial(pooled(logits, weights).softmax(-1), 1).squeeze(1)


def test_a_pool_is_the_distribution_that_is_nearest_to_all():
    logits, weights = [torch.randn(1, C) for _ in range(3)], (0.5, 0.3, 0.2)
    p = [each.log_softmax(-1) for each in logits]

    def distance(q):
        return sum(w * (q.softmax(-1) * (q.log_softmax(-1) - each)).sum() for w, each in zip(weights, p, strict=True))

    found = pooled(logits, weights)
    assert all(distance(found) < distance(found + 0.05 * torch.randn(1, C)) for _ in range(50))
    torch.testing.assert_close(pooled([logits[0], None, logits[2]]), (logits[0] + logits[2]) / 2)


def test_weights_are_those_of_the_pool_that_was_drawn_from():
    logits, y = drawn((0.6, 0.3, 0.1))
    row = fit_weights(Classes(C), logits, y)[-1]
    assert row == pytest.approx((0.6, 0.3, 0.1), abs=0.03)
    assert sum(row) == pytest.approx(1)


def test_every_block_has_the_best_weights_of_itself_and_those_before():
    logits, y = drawn((0.5, 0.2, 0.3))
    rows = fit_weights(Classes(C), logits, y)
    assert rows[0] == (1.0,)
    z = [each[:2000] for each in logits[:2]]
    first = fit_weights(Classes(C), z, y[:2000])[1]
    best = min(F.cross_entropy(pooled(z, first) * t, y[:2000]).item() for t in torch.linspace(0.3, 3, 100).tolist())
    for w in torch.linspace(0, 1, 11).tolist():
        for t in torch.linspace(0.3, 3, 28).tolist():
            assert F.cross_entropy(pooled(z, (w, 1 - w)) * t, y[:2000]).item() >= best - 1e-4


def test_a_block_that_says_nothing_does_not_count():
    logits, y = drawn((1.0,))
    noise = torch.randn(N, C)
    wrong = -logits[0] + torch.randn(N, C)
    rows = fit_weights(Classes(C), [noise, wrong, None, logits[0]], y)
    assert rows[2][2] == 0
    assert rows[3] == pytest.approx((0, 0, 0, 1), abs=0.03)
    assert rows[3][1] == 0


def test_labels_and_positions_are_weighed_and_what_has_no_target_is_not():
    z = [2 * torch.randn(N, 2) for _ in range(2)]
    y = (torch.rand(N, 2) < pooled(z, (0.8, 0.2)).sigmoid()).long()
    assert fit_weights(Labels(2), z, y)[-1] == pytest.approx((0.8, 0.2), abs=0.03)
    logits, y = drawn((0.7, 0.3))
    first = KeptLogits(Classes(C))
    y[::2] = MISSING
    spoiled = [torch.where((y == MISSING)[:, None], 100 * torch.randn(N, C), each) for each in logits]
    for part in range(0, N, 2000):  # sequences of 20
        at = slice(part, part + 2000)
        first.add([each[at].view(-1, 20, C) for each in spoiled], y[at].view(-1, 20))
    assert first.fit()[-1] == pytest.approx((0.7, 0.3), abs=0.04)


def test_blocks_that_know_less_than_nothing_count_the_same():
    logits, y = drawn((0.5, 0.5))
    wrong = [-each for each in logits]
    assert fit_weights(Classes(C), wrong, y)[-1] == pytest.approx((0.5, 0.5), abs=0.01)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e5])
def test_the_size_of_a_blocks_logits_does_not_decide(scale):
    u, v = (2 * torch.randn(5000, 4) for _ in range(2))
    y = torch.multinomial((u + v).softmax(-1), 1).squeeze(1)
    row = fit_weights(Classes(4), [u, scale * v], y)[-1]
    assert row[0] / (scale * row[1]) == pytest.approx(1, abs=0.1)


def test_soft_targets_are_taken_as_they_are():
    soft = (0.5 * torch.randn(4000, C)).softmax(-1)
    first = KeptLogits(Classes(C))
    first.add([soft.log(), 5 * F.one_hot(soft.argmax(-1), C).float()], soft)
    assert first.fit()[-1] == pytest.approx((1, 0), abs=0.05)


def test_it_fits_where_no_gradients_are_taken():
    with torch.inference_mode():
        logits, y = drawn((0.6, 0.4))
        assert fit_weights(Classes(C), logits, y)[-1] == pytest.approx((0.6, 0.4), abs=0.03)


def test_a_block_that_is_asked_and_cannot_predict_does_not_count():
    model = bl.build_model("mlp", classes=3, input_shape=(4,), width=16)
    net = bl.BlockLocal(bl.split(model, 3), classes=3, rule="frozen", example=torch.zeros(2, 4))
    x = torch.rand(20, 4)
    early = net.predict(x, exit=bl.Exits((1.0, 1.0), "together"))
    torch.testing.assert_close(early.probabilities, net.predict(x).probabilities)
    z = [torch.randn(5, C), None, torch.randn(5, C)]
    torch.testing.assert_close(pooled(z, (0.2, 0.6, 0.2)), (z[0] + z[2]) / 2)
    with pytest.raises(InputError, match="only blocks that do not predict count"):
        pooled(z, (0.0, 1.0, 0.0))


def test_of_many_batches_some_are_kept_evenly():
    first, size = KeptLogits(Classes(2)), MOST // 16
    for i in range(40):  # ten times what fits, of both blocks
        first.add([torch.zeros(size, 2)] * 2, torch.full((size,), i % 2))
    kept = len(first.kept)
    assert 2 < kept <= 4
    assert first.size <= MOST
    assert first.every == 16
    assert len(first.fit()) == 2


def test_what_diverged_is_told():
    first = KeptLogits(Classes(C))
    with pytest.raises(InputError, match="training diverged"):
        first.add([torch.zeros(4, C), torch.full((4, C), torch.nan)], torch.zeros(4).long())


def test_a_network_uses_them_for_what_all_say_together():
    net = bl.BlockLocal(
        bl.split(bl.build_model("mlp", classes=3, input_shape=(4,), width=16), 3), classes=3, optimizer=bl.adam(lr=0.01)
    )
    x = torch.rand(300, 4)
    y = (3 * x[:, 0]).long()
    for _ in range(30):
        net.step(x, y)
    fitted = fit_exits(net, [(x, y)])
    said = net.predict(x, temperatures=fitted.temperatures)
    z = pooled(net.eval().block_logits(x), fitted.weights[-1]) / fitted.together[-1].temperature
    torch.testing.assert_close(said.combined.probabilities, z.softmax(-1))
    assert fitted.together[-1].nll == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5)
    assert fitted.together[-1].nll <= fitted.together[-1].nll_before
    plain = pooled(net.block_logits(x)).softmax(-1)
    right = plain.argmax(-1) == y
    assert fitted.together[-1].right_before == pytest.approx(right.double().mean().item())
    assert fitted.together[-1].ece_before == pytest.approx(calibration_error(plain.amax(-1), right), abs=1e-6)
    exits = bl.Exits((2 / 3, 2 / 3), "together", weights=fitted.weights)
    early = net.predict(x, exit=exits)
    sure = pooled(net.block_logits(x)[:2], fitted.weights[1]).softmax(-1).amax(-1) >= 2 / 3
    first = net.block_logits(x)[0].softmax(-1).amax(-1) >= 2 / 3
    assert early.block.tolist() == torch.where(first, 1, torch.where(sure, 2, 3)).tolist()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bl.Exits((0.5, 0.5), "together", weights=((1.0,), (0.7, 0.7), (0, 0, 1))), "must be 2 shares of 1"),
        (lambda: bl.Exits((0.5, 0.5), "together", weights=((1.0,), (-1.0, 2.0), (0, 0, 1))), "must be 2 shares of 1"),
        (lambda: bl.Exits((None, 0.5), "together", weights=((0.0,), (0.5, 0.5), (0, 0, 1))), "that are not asked"),
        (lambda: Temperatures((1.0, 1.0), 1.0, (0.5, 0.5, 0.0)), "weights of 2 blocks"),
    ],
)
def test_what_are_no_shares_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
