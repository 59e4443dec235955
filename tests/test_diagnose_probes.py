"""Linear probes. Oracles: scikit-learn's logistic regression, the condition of an optimum, data of known answer."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from blocklocal.diagnose.probes import fit_probe, probe_accuracy, probe_features

CLASSES = 3


def blobs(seed=0, count=90, spread=1.0):
    """Features [N, 5] around one centre per class, and labels [N]."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centers = 3 * torch.eye(CLASSES, 5)
    return centers[labels] + spread * torch.randn(count, 5, generator=draw), labels


def test_a_probe_is_the_logistic_regression_of_scikit_learn():
    features, labels = blobs(spread=2.0)
    penalty = 0.05
    weight, bias = fit_probe(features, labels, CLASSES, penalty)
    other = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=10_000)
    other.fit(features.double().numpy(), labels.numpy())
    np.testing.assert_allclose(weight.T.numpy(), other.coef_, atol=1e-4)
    scores = features.double() @ weight + bias
    np.testing.assert_allclose(scores.softmax(1).numpy(), other.predict_proba(features.double().numpy()), atol=1e-4)


def test_at_the_optimum_the_penalty_balances_the_errors():
    features, labels = blobs(spread=2.0)
    weight, bias = fit_probe(features, labels, CLASSES, penalty=0.1)
    errors = (features.double() @ weight + bias).softmax(1) - torch.eye(CLASSES, dtype=torch.float64)[labels]
    torch.testing.assert_close(features.double().T @ errors / len(labels), -0.1 * weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(errors.mean(0), torch.zeros(CLASSES, dtype=torch.float64), atol=1e-5, rtol=0)


def test_separable_data_are_read_without_an_error_and_shuffled_labels_by_chance():
    fit, held = blobs(0, spread=0.3), blobs(1, spread=0.3)
    assert probe_accuracy(fit, held, CLASSES) == 100.0
    labels = held[1][torch.randperm(90, generator=torch.Generator().manual_seed(2))]
    assert 20 < probe_accuracy(fit, (held[0], labels), CLASSES) < 50


def test_accuracy_is_percent_correct_on_the_held_out_images_alone():
    fit, held = blobs(0, spread=0.3), blobs(1, spread=0.3, count=12)
    wrong = held[1].clone()
    wrong[:3] = (wrong[:3] + 1) % CLASSES
    assert probe_accuracy(fit, (held[0], wrong), CLASSES) == 75.0


def test_the_scale_of_a_feature_does_not_matter():
    (fit, labels), (held, truth) = blobs(0, spread=2.0), blobs(1, spread=2.0)
    scale, shift = torch.tensor([1e-3, 10.0, 1.0, 100.0, 5.0]), torch.tensor([5.0, -1e2, 0.0, 3.0, 1.0])
    plain = probe_accuracy((fit, labels), (held, truth), CLASSES)
    assert probe_accuracy((fit * scale + shift, labels), (held * scale + shift, truth), CLASSES) == plain
    assert plain < 100


def test_a_feature_that_never_changes_is_no_trouble():
    (fit, labels), (held, truth) = blobs(0, spread=0.3), blobs(1, spread=0.3)
    fit, held = (torch.cat([x, torch.full((len(x), 1), 7.0)], 1) for x in (fit, held))
    assert probe_accuracy((fit, labels), (held, truth), CLASSES) == 100.0


@pytest.mark.parametrize(
    ("shape", "features"), [((2, 7), 7), ((2, 3, 8, 8), 12), ((2, 3, 5, 4), 12), ((2, 3, 1, 1), 3), ((2, 3, 1, 6), 6)]
)
def test_maps_are_averaged_to_two_by_two_or_fewer_positions(shape, features):
    assert probe_features(torch.zeros(shape)).shape == (2, features)


def test_each_pooled_feature_is_the_mean_of_its_quarter():
    a = torch.arange(16.0).view(1, 1, 4, 4)
    assert probe_features(a).tolist() == [[2.5, 4.5, 10.5, 12.5]]
