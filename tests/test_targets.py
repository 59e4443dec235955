"""Targets: classes, binary labels, sequences, missing ones. Oracles: loops, torch's cross-entropy on what is there."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from blocklocal import BlockLocal, InputError, build_model, sgd, split
from blocklocal.block.targets import MISSING, Classes, Labels
from blocklocal.families import family

TABLE = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))  # 3 rows, 2 positions, 5 units
LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([2, MISSING, 0, 2])
X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def mlp(seed=0, **options):
    torch.manual_seed(seed)
    return build_model("mlp", classes=3, channels=1, image_size=(4, 4), width=8, norm=False, **options)


def network(model=None, **settings):
    targets = {} if "labels" in settings else {"classes": 3}
    return BlockLocal(split(model or mlp(), blocks=3), optimizer=sgd(0.1), **targets, **{"readout": 0, **settings})


def sequence_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def moved(net, x, y):
    """Which parameters a step changed."""
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.step(x, y)
    return {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}


# --- classes


def test_a_class_target_picks_its_row_and_a_missing_one_picks_zero():
    chosen = Classes(3).pick(TABLE, Y)
    assert torch.equal(chosen[0], TABLE[2])
    assert torch.equal(chosen[1], torch.zeros(2, 5))
    assert torch.equal(chosen[2], TABLE[0])


def test_the_loss_is_the_mean_over_the_targets_that_are_there():
    there = Y != MISSING
    torch.testing.assert_close(Classes(3).loss(LOGITS, Y), F.cross_entropy(LOGITS[there], Y[there]))
    smooth = F.cross_entropy(LOGITS[there], Y[there], label_smoothing=0.1)
    torch.testing.assert_close(Classes(3).loss(LOGITS, Y, 0.1), smooth)


def test_without_any_target_the_loss_is_zero_and_so_is_its_gradient():
    logits = LOGITS.clone().requires_grad_()
    loss = Classes(3).loss(logits, torch.full((4,), MISSING), 0.1)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_one_hot_rows_and_accuracy_leave_missing_targets_out():
    assert Classes(3).one_hot(Y).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    right, total = Classes(3).correct(F.one_hot(torch.tensor([2, 0, 1, 2]), 3).float(), Y)
    assert (right, total) == (2, 3)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_every_whole_number_type_is_read_as_int64_is(dtype):
    targets, y = Classes(3), torch.tensor([2, 1, 0, 2])
    other = y.to(dtype)
    targets.check(other)
    assert torch.equal(targets.loss(LOGITS, other, 0.1), targets.loss(LOGITS, y, 0.1))
    assert torch.equal(targets.pick(TABLE, other), targets.pick(TABLE, y))
    assert torch.equal(targets.one_hot(other), targets.one_hot(y))
    assert targets.correct(LOGITS, other) == targets.correct(LOGITS, y)


# --- sequences


def test_a_sequence_picks_one_message_per_position_from_a_shared_table():
    y = torch.tensor([[0, 2, MISSING], [1, 1, 0]])
    chosen = Classes(3).pick(TABLE[:, :1], y)
    assert chosen.shape == (2, 3, 5)
    for b in range(2):
        for t in range(3):
            assert torch.equal(chosen[b, t], torch.zeros(5) if y[b, t] == MISSING else TABLE[y[b, t], 0])


def test_a_sequence_picks_each_positions_own_entry_of_a_table_with_positions():
    y = torch.tensor([[0, 2], [MISSING, 1]])
    chosen = Classes(3).pick(TABLE, y)
    expected = torch.stack([torch.stack([TABLE[0, 0], TABLE[2, 1]]), torch.stack([torch.zeros(5), TABLE[1, 1]])])
    assert torch.equal(chosen, expected)


def test_the_loss_of_a_sequence_is_that_of_its_positions_in_a_row():
    logits, y = torch.randn(2, 3, 3), torch.tensor([[0, 2, MISSING], [1, 1, 0]])
    torch.testing.assert_close(Classes(3).loss(logits, y), Classes(3).loss(logits.reshape(6, 3), y.reshape(6)))
    assert Classes(3).correct(F.one_hot(y.clamp(min=0), 3).float(), y) == (5, 5)


@pytest.mark.parametrize("objective", ["evidence", "variational"])
@pytest.mark.parametrize("twin", ["dense", "chain", "mirrored"])
def test_a_sequence_network_learns_one_target_per_position(objective, twin):
    net = network(sequence_net(), objective=objective, twin=twin)
    x, y = torch.randn(4, 7, 4), torch.randint(0, 3, (4, 7))
    results = net.step(x, y)
    assert net.predict(x).probabilities.shape == (4, 7, 3)
    if objective == "evidence":
        assert all(r.scores.shape == (4, 7, 3) for r in results)


# --- binary labels


LABELS = torch.tensor([[1, 0], [MISSING, 1], [0, MISSING]])
ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))


def test_binary_labels_are_as_many_two_way_softmaxes():
    losses = [
        F.cross_entropy(ROWS[i, 2 * j : 2 * j + 2], LABELS[i, j])
        for i in range(3)
        for j in range(2)
        if LABELS[i, j] != MISSING
    ]
    torch.testing.assert_close(Labels(2).loss(ROWS, LABELS), torch.stack(losses).mean())
    pairs = ROWS.view(3, 2, 2).softmax(-1)[..., 1]
    torch.testing.assert_close(Labels(2).probabilities(Labels(2).as_logits(ROWS)), pairs)


def test_smoothing_a_binary_label_is_smoothing_its_two_way_softmax():
    smooth = F.cross_entropy(ROWS[:1].view(2, 2), LABELS[0], label_smoothing=0.2)
    torch.testing.assert_close(Labels(2).loss(ROWS[:1], LABELS[:1], 0.2), smooth)


def test_the_output_blocks_log_odds_are_read_as_they_are():
    log_odds = ROWS[:, 1::2] - ROWS[:, ::2]
    torch.testing.assert_close(Labels(2).loss(log_odds, LABELS), Labels(2).loss(ROWS, LABELS))
    assert Labels(2).correct(log_odds, LABELS) == Labels(2).correct(ROWS, LABELS)


def test_the_messages_of_several_labels_add_and_missing_ones_add_nothing():
    table = torch.randn(4, 1, 5)
    chosen = Labels(2).pick(table, LABELS)
    torch.testing.assert_close(chosen[0], table[1] + table[2])  # "yes" to the first, "no" to the second
    torch.testing.assert_close(chosen[1], table[3])
    torch.testing.assert_close(chosen[2], table[0])


def test_label_accuracy_counts_known_labels():
    assert Labels(2).correct(torch.tensor([[1.0, 1.0], [5.0, 1.0], [-1.0, 0.0]]), LABELS) == (3, 4)


def test_without_any_label_the_loss_is_zero():
    assert Labels(2).loss(ROWS, torch.full((3, 2), MISSING)) == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.uint8])
def test_labels_may_be_truth_values_or_numbers(dtype):
    y = torch.tensor([[1, 0], [0, 1], [1, 1]])
    Labels(2).check(y.to(dtype))
    assert torch.equal(Labels(2).loss(ROWS, y.to(dtype)), Labels(2).loss(ROWS, y))
    assert torch.equal(Labels(2).one_hot(y.to(dtype)), Labels(2).one_hot(y))


# --- missing targets in a network: b = 0, and only label-free terms train


def test_the_posterior_of_a_missing_target_is_the_forward_message():
    phi, fam = torch.randn(4, 2, 5), family("bernoulli")
    gamma = fam.product(phi, Classes(3).pick(TABLE, Y))
    assert torch.equal(gamma[Y == MISSING], phi[Y == MISSING])
    assert not torch.equal(gamma[0], phi[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "evidence"},
        {"objective": "variational", "family": "bernoulli"},
        {"objective": "printed-eq8", "family": "bernoulli"},
        {"similarity": 1.0},
        {"rule": "greedy"},
        {"rule": "target-projection"},
        {"label_smoothing": 0.1},
        {"rule": "backprop"},
    ],
    ids=str,
)
def test_a_batch_without_targets_moves_nothing(settings):
    assert moved(network(**settings), X, torch.full((6,), MISSING)) == set()
    assert moved(network(**settings), X, torch.arange(6) % 3) != set()


def test_a_batch_without_labels_moves_nothing():
    assert moved(network(labels=3), X, torch.full((6, 3), MISSING)) == set()


@pytest.mark.parametrize("objective", ["evidence", "variational"])
def test_reconstruction_trains_without_targets_and_leaves_twins_and_the_output_alone(objective):
    net = network(objective=objective, reconstruction=1.0, similarity=1.0)
    changed = moved(net, X, torch.full((6,), MISSING))
    expected = {n for k in (0, 1) for n in names_of(net, k) if ".block." in n or ".decoders." in n}
    assert changed == expected


def names_of(net, k):
    inside = {id(p) for p in net.learners[k].parameters()}
    return {name for name, p in net.named_parameters() if id(p) in inside}


def test_samples_without_a_target_do_not_change_what_the_others_teach():
    y = torch.tensor([0, MISSING, 2, 1, MISSING, 1])
    with_missing, without = network(), network()
    with_missing.step(X, y)
    without.step(X[y != MISSING], y[y != MISSING])
    for one, other in zip(with_missing.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(one, other)


# --- errors


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 3]), r"target 3 is outside the classes 0 … 2; give classes=4"),
        (torch.tensor([0, -1]), r"target -1 is outside the classes 0 … 2"),
        (torch.tensor([156], dtype=torch.uint8), r"target 156 is outside"),  # the same bits as -100
        (torch.tensor([0.0, 1.0]), r"whole numbers \(int64\), not torch.float32"),
        (torch.tensor([True, False]), r"not torch.bool; for labels use labels="),
        (torch.tensor(1), r"shape \[B\], \[B, T\] or \[B, H, W\], not \[\]"),
        (torch.zeros(2, 3, 4, 5, 6, dtype=torch.int64), r"not \[2, 3, 4, 5, 6\]"),
    ],
    ids=["above", "negative", "uint8", "floats", "bools", "scalar", "cube"],
)
def test_class_targets_that_make_no_sense_are_refused(y, message):
    with pytest.raises(InputError, match=message):
        Classes(3).check(y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1]), r"shape \[batch, 2\], not \[2\]"),
        (torch.zeros(2, 3), r"shape \[batch, 2\], not \[2, 3\]"),
        (torch.tensor([[0, 2]]), "0 or 1"),
        (torch.tensor([[0.5, 1.0]]), "0 or 1"),
        (torch.tensor([[156, 1]], dtype=torch.uint8), "0 or 1"),
    ],
    ids=["flat", "too many", "two", "half", "uint8"],
)
def test_labels_that_make_no_sense_are_refused(y, message):
    with pytest.raises(InputError, match=message):
        Labels(2).check(y)


def test_known_missing_targets_pass_the_check():
    Classes(3).check(Y)
    Labels(2).check(LABELS)


@pytest.mark.parametrize("objective", ["evidence", "variational"])
@pytest.mark.parametrize("shape", [(5,), (6, 1), (6, 3)], ids=str)
def test_targets_that_do_not_fit_the_batch_are_refused(objective, shape):
    with pytest.raises(InputError, match=r"targets of shape \[[56]"):
        network(objective=objective).step(X, torch.zeros(shape, dtype=torch.int64))


def test_accuracy_of_targets_that_would_broadcast_is_refused():
    with pytest.raises(InputError, match=r"shape \[4, 1\] do not fit .* needs \[4\]"):
        Classes(3).correct(LOGITS, Y.unsqueeze(1))


@pytest.mark.parametrize("kind", [Classes, Labels])
@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_a_number_of_targets_must_be_a_whole_number_from_1(kind, count):
    with pytest.raises(InputError, match="whole number of at least 1"):
        kind(count)
