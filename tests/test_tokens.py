"""Next tokens. Oracles: torch's cross-entropy and autograd; a loss in pieces is that of the whole."""

import math

import pytest
import torch
import torch.nn.functional as F

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal._common.memory import saved_bytes
from blocklocal.block import pieces
from blocklocal.block.classes import Classes
from blocklocal.block.objectives import OBJECTIVES, Terms
from blocklocal.block.pieces import cross_entropy_in_pieces
from blocklocal.families import family
from blocklocal.models.decoder import Decoder

POSITIONS, UNITS, WORDS = 23, 5, 11


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_targets() -> torch.Tensor:
    y = torch.randint(0, WORDS, (POSITIONS,), generator=torch.Generator().manual_seed(3))
    y[[2, 7]] = -100
    return y


@pytest.mark.parametrize("most", [1, 3 * WORDS, 2**20])
@pytest.mark.parametrize("with_prior", [True, False])
def test_a_loss_in_pieces_has_the_value_and_the_gradients_of_the_whole(most, with_prior, monkeypatch):
    monkeypatch.setattr(pieces, "MOST", most)
    given = [draw(POSITIONS, UNITS).requires_grad_(), draw(WORDS, UNITS, seed=1).requires_grad_()]
    prior = draw(WORDS, seed=2).requires_grad_() if with_prior else None
    y, parameters = some_targets(), [*given, *([prior] if with_prior else [])]
    found = cross_entropy_in_pieces(*given, prior, y, 1.7)
    logits = given[0] @ given[1].T / 1.7 + (prior if with_prior else 0.0)
    whole = F.cross_entropy(logits, y, ignore_index=-100)
    torch.testing.assert_close(found.loss.double(), whole, rtol=1e-6, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(3 * found.loss, parameters), torch.autograd.grad(3 * whole, parameters), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.sums, bl.Tokens(WORDS).measure(logits.unsqueeze(0), y.unsqueeze(0)))


def test_in_float16_the_gradients_of_many_positions_are_not_lost():
    """A probability over so many positions is too small for float16; the scale of the loss comes from behind."""
    count, words = 2048, 1024
    h, table = draw(count, UNITS), 0.02 * draw(words, UNITS, seed=1)
    y = torch.randint(0, words, (count,), generator=torch.Generator().manual_seed(3))
    found = []
    for kind in (torch.float16, torch.float64):
        given = [h.half().to(kind).requires_grad_(), table.half().to(kind).requires_grad_()]
        loss = 2.0**16 * cross_entropy_in_pieces(*given, None, y, 1.0).loss
        found.append([each.double() for each in torch.autograd.grad(loss, given)])
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).norm() < 3e-3 * theirs.norm()


def test_only_what_is_asked_for_gets_a_gradient():
    h, table = draw(POSITIONS, UNITS).requires_grad_(), draw(WORDS, UNITS)
    cross_entropy_in_pieces(h, table, None, some_targets(), 1.0).loss.backward()
    assert h.grad is not None
    assert table.grad is None


def test_positions_without_a_target_alone_give_no_loss_and_no_gradient():
    h, table = draw(4, UNITS).requires_grad_(), draw(WORDS, UNITS).requires_grad_()
    found = cross_entropy_in_pieces(h, table, None, torch.full((4,), -100), 1.0)
    found.loss.backward()
    assert found.loss == 0
    assert not h.grad.any()
    assert not table.grad.any()


def test_perplexity_and_bits_per_byte_are_those_of_the_mean_loss():
    tokens, logits, y = bl.Tokens(WORDS, bytes_per_token=3.5), draw(1, POSITIONS, WORDS), some_targets().unsqueeze(0)
    nats = F.cross_entropy(logits[0], y[0], ignore_index=-100).item()
    halves = [tokens.measure(logits[:, part], y[:, part]) for part in (slice(0, 9), slice(9, None))]
    found = tokens.figures(torch.stack(halves).sum(0))
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 3.5, rel=1e-6)
    known = y[0] != -100
    assert found["top1"] == pytest.approx(100 * (logits[0].argmax(-1) == y[0])[known].double().mean().item())
    assert "bits_per_byte" not in bl.Tokens(WORDS).figures(halves[0])


@pytest.mark.parametrize("size", [0, -1.0, math.inf, math.nan])
def test_a_token_has_some_bytes(size):
    with pytest.raises(InputError, match="bytes_per_token must be a finite number above 0"):
        bl.Tokens(WORDS, bytes_per_token=size)


# --- in a network

X = torch.randint(0, WORDS, (3, 8), generator=torch.Generator().manual_seed(1))
Y = X.roll(-1, 1)


def network(**settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = Decoder(WORDS, 8, width=16, layers=2, heads=2)
    given = {"tokens": WORDS, "family": "gaussian", "order": "first", "readout": 1, "optimizer": bl.adamw(1e-2)}
    return bl.BlockLocal(bl.split(model, 2), example=X, **{**given, **settings})


@pytest.mark.parametrize("twin", ["shared", "dense"])
def test_a_step_measures_the_scores_of_all_blocks_and_keeps_none(twin):
    net = network(twin=twin)
    before = [F.cross_entropy(each.flatten(0, 1), Y.flatten()) for each in net.block_logits(X)]
    results = net.step(X, Y)
    for result, nats in zip(results, before, strict=True):
        assert result.scores is None
        torch.testing.assert_close(result.loss, nats)
        torch.testing.assert_close(result.sums[2].float() / Y.numel(), nats)


def test_a_block_learns_the_same_in_pieces_as_from_all_logits():
    steps = []
    for tokens in (True, False):
        asked = {} if tokens else {"tokens": None, "classes": WORDS, "normalise": "none"}
        net = network(twin="shared", optimizer=bl.sgd(lr=0.1), **asked)
        for _ in range(3):
            net.step(X, Y)
        steps.append({name: p.detach() for name, p in net.named_parameters()})
    for name, p in steps[0].items():
        torch.testing.assert_close(p, steps[1][name], rtol=1e-4, atol=1e-5)


def test_autograd_keeps_no_logits_of_a_hidden_block():
    words, h = 4096, torch.randn(2, 16, 8, requires_grad=True)
    table, y = torch.randn(words, 1, 8, requires_grad=True), torch.zeros(2, 16, dtype=torch.long)
    kept = {}
    for tokens in (bl.Tokens(words), Classes(words)):
        with saved_bytes(torch.nn.Identity()) as saved:
            compute = OBJECTIVES.get("evidence").compute
            compute(family("gaussian"), h, table, tokens, y, Terms(order="first", per_position=True))
        kept[type(tokens).__name__] = saved.peak
    logits = 4 * y.numel() * words
    assert kept["Tokens"] < logits < kept["Classes"]


def test_an_evaluation_of_tokens_counts_in_perplexity():
    found = bl.evaluate(network(twin="shared", tokens=bl.Tokens(WORDS, bytes_per_token=2.0)), [(X, Y), (X[:1], Y[:1])])
    assert found.measured["perplexity"][-1] == pytest.approx(math.exp(found.nll), rel=1e-5)
    assert found.measured["bits_per_byte"][0] > 0
    assert found.combined["perplexity"] > 1
    assert found.confusion == []
