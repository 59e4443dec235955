"""Scores of foreign data. Oracles: divergences by hand, and scikit-learn."""

import numpy as np
import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal.uncertainty.foreign import aupr, disagreement, false_positives, foreign_scores
from blocklocal.uncertainty.measures import auroc

LOGITS = [torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def test_a_disagreement_is_the_sum_of_divergences_from_what_all_say_together():
    logs = [each.log_softmax(1) for each in LOGITS]
    q = torch.stack(logs).mean(0).softmax(1)
    expected = sum((q * (q.log() - each)).sum(1) for each in logs)
    torch.testing.assert_close(disagreement(LOGITS).float(), expected)
    assert disagreement([LOGITS[0], LOGITS[0] + 3]).abs().max() < 1e-9


def test_no_other_distribution_is_nearer_to_all_blocks():
    logs, least = [each.double().log_softmax(1) for each in LOGITS], disagreement(LOGITS)
    draw = torch.Generator().manual_seed(9)
    for _ in range(50):
        q = torch.randn(6, 4, generator=draw, dtype=torch.float64).softmax(1)
        assert bool((sum((q * (q.log() - each)).sum(1) for each in logs) >= least - 1e-12).all())


def test_scores_are_of_the_output_and_of_the_blocks_that_predict():
    found = foreign_scores([None, *LOGITS])
    torch.testing.assert_close(found["largest"].float(), 1 - LOGITS[-1].softmax(1).amax(1))
    torch.testing.assert_close(found["energy"].float(), -LOGITS[-1].logsumexp(1))
    torch.testing.assert_close(found["disagreement"], disagreement(LOGITS))
    assert set(foreign_scores([None, LOGITS[0]])) == {"largest", "energy"}


def test_measures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(200, generator=draw), torch.randn(80, generator=draw) + 1
    inside, outside = (inside * 4).round() / 4, (outside * 4).round() / 4  # with ties
    label, score = np.r_[np.zeros(200), np.ones(80)], torch.cat((inside, outside)).numpy()
    assert aupr(inside, outside) == pytest.approx(metrics.average_precision_score(label, score))
    assert auroc(inside, outside) == pytest.approx(metrics.roc_auc_score(label, score))
    false, true, _ = metrics.roc_curve(label, score, drop_intermediate=False)
    assert false_positives(inside, outside) == pytest.approx(false[true >= 0.95].min())


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="of two blocks or more over the same classes"):
        disagreement(LOGITS[:1])
    with pytest.raises(InputError, match="over the same classes"):
        disagreement([LOGITS[0], LOGITS[0][:, :2]])
    with pytest.raises(InputError, match="there is no output"):
        foreign_scores([LOGITS[0], None])
    with pytest.raises(InputError):
        aupr(torch.empty(0), torch.ones(3))
