"""Oracle: the definition. Reversed digits, windows that are pieces of the text, orders named by seed and epoch."""

import pytest
import torch

from blocklocal import InputError
from blocklocal.data.sequences import RandomWindows, SequenceBatches, permutations, reversal, spread_windows

TEXT = torch.arange(100) * 3  # so that a window shows where it lies


def epochs(batches, count=2):
    return [[tuple(t.tolist() for t in pair) for pair in batches] for _ in range(count)]


# --- reversal


def test_permutations_hold_every_digit_once_and_differ():
    found = permutations(300)
    assert found.dtype == torch.int64
    assert found.sort(dim=1).values.tolist() == [list(range(10))] * 300
    assert len({tuple(row.tolist()) for row in found}) == 300


def test_permutations_depend_on_their_seed_alone():
    assert torch.equal(permutations(20, seed=3), permutations(20, seed=3))
    assert torch.equal(permutations(20, seed=3), permutations(50, seed=3)[:20])
    assert not torch.equal(permutations(20, seed=3), permutations(20, seed=4))


def test_more_permutations_than_there_are_are_refused():
    with pytest.raises(InputError, match="4000000 different permutations of ten digits"):
        permutations(4_000_000)


def test_the_target_of_a_position_is_the_digit_as_far_from_the_other_end():
    x, y = next(iter(reversal(permutations(5), batch_size=5)))
    for t in range(10):
        assert torch.equal(y[:, t], x[:, 9 - t])


# --- batches


def test_every_sequence_comes_once_per_epoch_with_its_own_target_and_the_rest_is_kept():
    x = permutations(7)
    batches = reversal(x, batch_size=3, shuffle=True)
    pairs = list(batches)
    assert [len(a) for a, _ in pairs] == [3, 3, 1]
    assert len(batches) == 3
    assert sorted(row.tolist() for a, _ in pairs for row in a) == sorted(x.tolist())
    assert all(torch.equal(a.flip(1), b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["shuffled", "random windows"])
def test_the_order_is_named_by_seed_and_epoch(kind):
    def make(seed):
        if kind == "shuffled":
            return reversal(permutations(9), batch_size=4, shuffle=True, seed=seed)
        return RandomWindows(TEXT, length=5, batch_size=4, steps=3, seed=seed)

    first, second = epochs(make(0))
    assert [first, second] == epochs(make(0))
    assert first != second
    assert epochs(make(1))[0] != first


def test_unshuffled_batches_are_the_same_every_epoch():
    first, second = epochs(reversal(permutations(9), batch_size=4))
    assert first == second


@pytest.mark.parametrize(("x", "y"), [((4, 3), (4, 2)), ((4,), (4,)), ((0, 3), (0, 3))])
def test_sequences_and_targets_that_do_not_fit_are_refused(x, y):
    with pytest.raises(InputError, match=r"give both as \[N, T\]"):
        SequenceBatches(torch.zeros(x, dtype=torch.int64), torch.zeros(y, dtype=torch.int64), batch_size=2)


# --- windows


def test_random_windows_are_pieces_of_the_text_and_targets_the_next_characters():
    batches = RandomWindows(TEXT, length=5, batch_size=64, steps=8)
    assert len(batches) == len(list(batches)) == 8
    starts = set()
    for x, y in batches:
        assert x.shape == y.shape == (64, 5)
        assert torch.equal(x // 3, x[:, :1] // 3 + torch.arange(5))
        assert torch.equal(y, x + 3)
        starts |= set((x[:, 0] // 3).tolist())
    assert starts == set(range(95))  # the last one's targets end with the text


def test_spread_windows_do_not_overlap_and_reach_over_the_whole_text():
    ((x, y),) = spread_windows(TEXT, length=7, count=5, batch_size=9)
    assert torch.equal(y, x + 3)
    assert (x[:, 0] // 3).tolist() == [0, 19, 38, 57, 76]
    assert torch.equal(x // 3, x[:, :1] // 3 + torch.arange(7))


def test_there_are_no_more_spread_windows_than_fit():
    ((x, y),) = spread_windows(TEXT, length=30, count=50, batch_size=9)
    assert (x[:, 0] // 3).tolist() == [0, 33, 66]
    assert y.max() <= TEXT.max()
    ((x, y),) = spread_windows(TEXT, length=99, count=50, batch_size=9)
    assert x[0].tolist() == TEXT[:-1].tolist()
    assert y[0].tolist() == TEXT[1:].tolist()


@pytest.mark.parametrize("make", [RandomWindows, spread_windows])
def test_a_text_shorter_than_a_window_is_refused(make):
    counts = {"steps": 1} if make is RandomWindows else {"count": 1}
    with pytest.raises(InputError, match=r"windows of 100 characters need a text of at least 101, not \[100\]"):
        make(TEXT, length=100, batch_size=1, **counts)
