"""Figures of a split. Oracles: torchmetrics, loops over samples, and what is refused."""

import subprocess
import sys

import pytest
import torch
from rule_helpers import same, state
from torch import nn

from blocklocal import BlockLocal, InputError, Trainer, evaluate, split
from blocklocal.uncertainty.measures import calibration_error

X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 5
BATCHES = list(zip(X.split(10), Y.split(10), strict=True))


def network(outputs=5, targets=None, example=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
    return BlockLocal(split(model, 2), **(targets or {"classes": outputs}), readout=0, example=example)


def test_before_training_a_network_has_the_accuracy_of_its_blocks():
    net, other = network(), network(example=X)
    found = evaluate(net, BATCHES)
    assert found == evaluate(other, BATCHES)
    assert len(found.block_top1) == 2
    prediction = net.predict(X)
    assert found.top1 == pytest.approx(100 * (prediction.label == Y).double().mean().item())
    assert found.combined_top1 == pytest.approx(100 * (prediction.combined.label == Y).double().mean().item())
    assert net.training


def test_an_evaluation_before_training_changes_nothing_of_it():
    nets = [network() for _ in range(2)]
    evaluate(nets[0], BATCHES)
    for net in nets:
        Trainer(net, epochs=1).fit(BATCHES)
    assert same(state(nets[0]), state(nets[1]))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("nothing", [list, lambda: iter(()), lambda: (pair for pair in ())])
def test_nothing_to_evaluate_is_refused(nothing, known):
    net = network(example=X if known else None)
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(net, nothing())
    assert net.training


@pytest.mark.parametrize("targets", [{"classes": 5}, {"labels": 5}])
def test_batches_without_any_target_are_nothing_to_evaluate(targets):
    missing = torch.full((24,) if "classes" in targets else (24, 5), -100)
    with pytest.raises(InputError, match="nothing to evaluate: no sample has a target"):
        evaluate(network(targets=targets), [(X, missing)])


def test_one_class_alone_has_no_calibration_error():
    found = evaluate(network(outputs=1), [(X, torch.zeros_like(Y))])
    assert (found.top1, found.top3, found.ece) == (100.0, None, None)


class Sharp(nn.Module):
    """Confidences from even to exactly 1."""

    def forward(self, x):
        return x * 10 ** torch.linspace(-2, 3, len(x)).unsqueeze(1)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("sharp", [False, True])
def test_the_calibration_error_is_that_of_torchmetrics(classes, sharp):
    from torchmetrics.functional.classification import multiclass_calibration_error  # seconds, which others can spare

    torch.manual_seed(classes)
    logits, wanted = torch.randn(500, classes), torch.randint(classes, (500,))
    probabilities = (Sharp()(logits) if sharp else logits).softmax(-1).clamp(min=1e-12)
    confidence, label = probabilities.max(-1)
    assert (confidence == 1).any() == sharp
    expected = multiclass_calibration_error(probabilities, wanted, num_classes=classes, n_bins=15).item()
    assert calibration_error(confidence, label == wanted) == pytest.approx(expected, rel=1e-5)


def test_the_calibration_error_by_hand():
    """Bins of 0.5: (0.2, 0.4; one right) and (0.6; right): 2/3 · |0.5 - 0.3| + 1/3 · |1 - 0.6|."""
    confidence, right = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([True, False, True])
    assert calibration_error(confidence, right, bins=2) == pytest.approx(2 / 3 * 0.2 + 1 / 3 * 0.4)
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0
    with pytest.raises(InputError, match="bins"):
        calibration_error(confidence, right, bins=0)


def test_evaluating_imports_no_plotting_library():
    code = (
        "import sys, torch; from torch import nn; import blocklocal as bl; "
        "net = bl.BlockLocal(bl.split(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), 2), classes=3); "
        "bl.evaluate(net, [(torch.randn(6, 4), torch.arange(6) % 3)]); "
        "assert not {'matplotlib', 'torchmetrics'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _modes(net):
    return [module.training for module in net.modules()]


def test_an_evaluation_puts_back_the_mode_of_every_part():
    net = network(example=X)
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm1d))
    norm.eval()
    before = _modes(net)
    assert net.training
    evaluate(net, BATCHES)
    assert _modes(net) == before
    assert not norm.training


def test_parts_that_an_evaluation_makes_get_the_mode_of_the_network():
    for training in (True, False):
        net = network().train(training)
        evaluate(net, BATCHES)
        assert set(_modes(net)) == {training}


@pytest.mark.parametrize("wrong", [(X[:, :2], Y), (X, Y + 9), (X, None)], ids=["shape", "target", "no target"])
def test_an_evaluation_that_fails_puts_back_the_mode_of_every_part(wrong):
    net = network(example=X)
    net.learners[0].eval()
    before = _modes(net)
    with pytest.raises(InputError):
        evaluate(net, [*BATCHES, wrong])
    assert _modes(net) == before


def test_an_evaluation_in_which_the_users_module_fails_puts_back_the_mode_of_every_part():
    net = network(example=X)
    net.learners[0].eval()
    before = _modes(net)

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = net.learners[1].block.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(net, BATCHES)
    assert _modes(net) == before
    handle.remove()
    assert len(evaluate(net, BATCHES).block_top1) == 2
