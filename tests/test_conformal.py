"""Conformal sets. Oracles: quantiles by hand, and coverage over hundreds of random splits."""

import math
from itertools import pairwise

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal.uncertainty.conformal import conformal_sets, intersections, nested_sets, scores

C = 5


def samples(count: int, seed: int, sharp: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, overconfident ones, and classes that are drawn from milder ones."""
    draw = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(count, C, generator=draw)
    y = torch.multinomial((logits / 1.5).softmax(1), 1, generator=draw).squeeze(1)
    return logits.softmax(1), y


def test_a_limit_is_the_quantile_of_the_true_classes_scores():
    p, y = samples(19, 0)
    own = sorted((1 - p[torch.arange(19), y]).tolist())
    assert conformal_sets(p, y, 0.9).limits.item() == pytest.approx(own[math.ceil(20 * 0.9) - 1])
    assert conformal_sets(p, y, 0.96).limits.item() == math.inf  # the 20th of 19
    assert bool(conformal_sets(p, y, 0.96)(p).all())


def test_adaptive_scores_are_the_probability_of_what_is_more_probable_and_a_part_of_their_own():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    found = scores(p, "adaptive", seed=3)
    part = (found[0, 0] / 0.5).item()
    assert 0 <= part <= 1
    torch.testing.assert_close(found[0], torch.tensor([0.5 * part, 0.5 + 0.3 * part, 0.8 + 0.2 * part]))
    assert found[1].argsort().tolist() == [2, 1, 0]


@pytest.mark.parametrize("score", ["threshold", "adaptive"])
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_over_200_random_splits_the_coverage_is_the_wanted_one(score, coverage):
    p, y = samples(2000, 1)
    inside = []
    for split in range(200):
        order = torch.randperm(2000, generator=torch.Generator().manual_seed(split))
        fit, rest = order[:1000], order[1000:]
        sets = conformal_sets(p[fit], y[fit], coverage, score, seed=2 * split)(p[rest], seed=2 * split + 1)
        inside.append(sets.gather(1, y[rest].unsqueeze(1)).double().mean().item())
    assert abs(sum(inside) / 200 - coverage) < 0.01


def test_by_class_the_coverage_holds_within_every_class():
    p, y = samples(40_000, 2)
    p = (p.log() + torch.tensor([0.0, 0.0, 0.0, 0.0, -2.0])).softmax(1)  # the last class is thought to be rare
    fit, rest = slice(0, 20_000), slice(20_000, None)

    def least(by_class: bool) -> float:
        sets = conformal_sets(p[fit], y[fit], 0.9, by_class=by_class)(p[rest])
        inside = sets.gather(1, y[rest].unsqueeze(1)).squeeze(1)
        return min(inside[y[rest] == c].double().mean().item() for c in range(C))

    assert least(by_class=True) > 0.88
    assert least(by_class=False) < 0.8


def test_sets_of_the_blocks_so_far_only_shrink_and_all_hold_the_class_at_once():
    p, y = samples(20_000, 3)
    blocks = [
        p,
        (p.log() + 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4))).softmax(1),
        p.sqrt(),
    ]
    blocks = [each / each.sum(1, keepdim=True) for each in blocks]
    fit, rest = slice(0, 10_000), slice(10_000, None)
    fitted = nested_sets([each[fit] for each in blocks], y[fit], 0.9)
    found = intersections([sets(each[rest]) for sets, each in zip(fitted, blocks, strict=True)])
    assert all(bool((later <= earlier).all()) for earlier, later in pairwise(found))
    inside = found[-1].gather(1, y[rest].unsqueeze(1)).double().mean().item()
    assert inside >= 0.89
    assert found[-1].sum() < found[0].sum()


def test_bad_input_is_refused():
    p, y = samples(10, 5)
    with pytest.raises(InputError, match=r"need probabilities \[N, C\] and classes \[N\]"):
        conformal_sets(p, y[:3])
    with pytest.raises(InputError, match="coverage must be a number above 0 and below 1"):
        conformal_sets(p, y, 1.0)
    with pytest.raises(InputError, match="unknown conformal score"):
        conformal_sets(p, y, score="guess")


def test_adaptive_sets_are_the_same_in_batches_of_any_size_and_their_parts_are_even():
    p, y = samples(4000, 6)
    sets = conformal_sets(p[:2000], y[:2000], 0.9, "adaptive")
    whole = sets(p[2000:])
    assert torch.equal(torch.cat([sets(p[i : i + 1]) for i in range(2000, 2300)]), whole[:300])
    largest = p.amax(1)
    parts = scores(p, "adaptive").amin(1) / largest  # of the most probable class: a part of its probability
    assert abs(parts.mean() - 0.5) < 0.02
    assert abs(parts.std() - 12**-0.5) < 0.02
