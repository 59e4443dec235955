"""Our measures and conformal sets against those of other libraries: netcal and MAPIE."""

import numpy as np
import pytest
import torch

from blocklocal.uncertainty.conformal import conformal_sets
from blocklocal.uncertainty.intervals import conformal_intervals
from blocklocal.uncertainty.measures import calibration_error

pytestmark = pytest.mark.filterwarnings("ignore")  # of these libraries, about what they import

LOGITS = 2 * torch.randn(800, 6, generator=torch.Generator().manual_seed(0))
Y = torch.multinomial((LOGITS / 1.5).softmax(1), 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
P = LOGITS.softmax(1)
HALF = 400


@pytest.mark.parametrize("bins", [5, 15])
def test_the_calibration_error_is_netcals(bins):
    metrics = pytest.importorskip("netcal.metrics")
    found = calibration_error(P.amax(1), P.argmax(1) == Y, bins)
    assert found == pytest.approx(metrics.ECE(bins).measure(P.numpy(), Y.numpy()), abs=1e-6)


def known():
    """A classifier and a regressor of scikit-learn's form that say what is in their input already."""
    base = pytest.importorskip("sklearn.base")

    class Classifier(base.ClassifierMixin, base.BaseEstimator):
        classes_ = np.arange(6)
        is_fitted_ = True

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    class Regressor(base.RegressorMixin, base.BaseEstimator):
        is_fitted_ = True

        def fit(self, x, y):
            return self

        def predict(self, x):
            return x[:, 0]

    return Classifier(), Regressor()


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_threshold_sets_are_mapies(coverage):
    mapie = pytest.importorskip("mapie.classification")
    theirs = mapie.SplitConformalClassifier(known()[0], confidence_level=coverage, conformity_score="lac", prefit=True)
    theirs.conformalize(P[:HALF].double().numpy(), Y[:HALF].numpy())
    _, expected = theirs.predict_set(P[HALF:].double().numpy())
    found = conformal_sets(P[:HALF].double(), Y[:HALF], coverage)(P[HALF:].double())
    assert found.tolist() == expected[..., 0].tolist()


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_are_mapies(coverage):
    mapie = pytest.importorskip("mapie.regression")
    x = torch.randn(800, 1, dtype=torch.float64)
    y = x + torch.randn(800, 1, dtype=torch.float64)
    theirs = mapie.SplitConformalRegressor(known()[1], confidence_level=coverage, prefit=True)
    theirs.conformalize(x[:HALF].numpy(), y[:HALF, 0].numpy())
    _, expected = theirs.predict_interval(x[HALF:].numpy())
    low, high = conformal_intervals(x[:HALF], y[:HALF], coverage)(x[HALF:])
    np.testing.assert_allclose(np.stack([low[:, 0], high[:, 0]], 1), expected[..., 0], rtol=1e-9)
