"""What to try. Oracle: figures written down by hand, each with the one thing that is wrong with them."""

import re
from dataclasses import replace

import pytest

from blocklocal._common.errors import InputError
from blocklocal.diagnose.diagnosis import BlockDiagnosis
from blocklocal.diagnose.hints import find_hints
from blocklocal.network.settings import Learning

# Three blocks on which nothing is wrong.
SOUND = [
    BlockDiagnosis(
        name=f"unit{k}",
        cosine=0.5,
        message=1.0,
        message_at_start=0.8,
        own=60.0 + 5 * k,
        probe=61.0 + 5 * k,
        frozen_probe=40.0,
        against_probe=62.0 + 5 * k,
        gap=1.0,
        added=1.0 if k == 0 else 0.0,
        explained=60.0,
        frozen_explained=50.0,
        against_explained=55.0,
    )
    for k in range(3)
]
SOUND[-1] = replace(SOUND[-1], cosine=1.0, message=None, message_at_start=None, frozen_probe=None)


def blocks(number, **changes):
    """The sound blocks, with changes to one of them, counted from 1."""
    return [replace(b, **changes) if k == number else b for k, b in enumerate(SOUND, 1)]


def hint(found, **settings) -> str:
    """The only hint."""
    hints = find_hints(found, Learning(**{"readout": 0, **settings}), "backprop")
    assert len(hints) == 1, hints
    return hints[0]


def flags(text) -> set[str]:
    return set(re.findall(r"--[a-z-]+(?: \d+(?:\.\d+)?| neighbour| evidence)?", text))


def test_sound_blocks_give_one_sentence_without_a_fault():
    assert "nothing stands out" in hint(SOUND)


def test_a_collapsed_message_points_to_the_evidence_objective():
    text = hint(blocks(2, message=0.01), objective="variational", family="bernoulli")
    assert text.startswith("block 2 (unit1): the backward message has collapsed (mean |b| 0.01, before training 0.8)")
    assert "--objective evidence" in text
    assert "--objective" not in hint(blocks(2, message=0.01))


@pytest.mark.parametrize("rule", ["greedy", "target-projection"])
@pytest.mark.parametrize("objective", ["variational", "projection"])
def test_a_rule_with_an_objective_of_its_own_is_not_told_to_take_another(rule, objective):
    assert "--objective" not in hint(blocks(2, message=0.01), rule=rule, objective=objective)


def test_a_block_that_learns_nothing_is_named():
    found = blocks(1, frozen_probe=60.0)
    assert "block 1 (unit0)" in hint(found)
    assert flags(hint(found)) == {"--readout 1", "--scope neighbour"}
    assert "--objective evidence" in hint(found, objective="variational")


def test_the_block_where_most_is_lost_is_named_with_what_it_costs():
    text = hint(blocks(2, added=6.0, gap=7.0))
    assert text.startswith("block 2 (unit1): most is lost here, 6.0 points; backprop is 7.0 ahead.")
    assert {"--readout 1", "--scope neighbour", "--at", "--blocks"} <= flags(text)
    default = hint(blocks(2, added=6.0, gap=7.0), readout=Learning().readout)
    assert flags(default) == {"--scope neighbour", "--at", "--blocks"}  # deeper readouts lost accuracy


def test_a_lead_that_is_lost_again_in_part_is_still_a_lead():
    assert "4.0 points; backprop is 0.3 behind." in hint(blocks(2, added=4.0, gap=-0.3))


def test_only_the_worst_of_two_is_where_most_is_lost():
    found = [replace(SOUND[0], added=3.0, gap=3.0), replace(SOUND[1], added=5.0, gap=8.0), replace(SOUND[2], gap=8.0)]
    assert hint(found).startswith("block 2 (unit1): most is lost here, 5.0 points")


def test_a_gap_that_opens_at_the_last_block_comes_from_what_it_is_given():
    text = hint(blocks(3, added=6.0, gap=7.0))
    assert "block 3 (unit2)" in text
    assert flags(text) == {"--scope neighbour"}


def test_a_block_that_forgets_the_image_points_to_reconstruction():
    found = blocks(1, explained=30.0)
    assert flags(hint(found)) == {"--reconstruction 1"}
    assert "30 %, backprop 55 %" in hint(found)
    assert flags(hint(found, reconstruction=0.5)) == {"--reconstruction 1"}
    assert flags(hint(found, reconstruction=1.0)) == {"--reconstruction 2"}


def test_a_block_that_reads_less_than_is_there_points_to_the_readout():
    assert flags(hint(blocks(2, own=50.0))) == {"--readout 1"}
    assert flags(hint(blocks(2, own=50.0), readout=1)) == {"--readout 2"}


def test_a_gradient_that_shares_no_direction_is_named():
    found = [replace(SOUND[0], cosine=-0.2), replace(SOUND[1], cosine=0.01), SOUND[2]]
    text = hint(found)
    assert text.startswith("blocks 1 and 2: the gradient shares no direction with backprop's (cosine -0.20; 0.01)")
    assert flags(text) == {"--scope neighbour", "--readout 1"}
    assert flags(hint(found, scope="neighbour")) == {"--readout 1"}


def test_a_block_that_tells_less_than_the_one_before_points_to_the_cut():
    text = hint(blocks(2, probe=50.0, own=50.0))
    assert "block 2 (unit1): a probe reads less than off the block before" in text
    assert flags(text) == {"--at", "--blocks"}


def test_the_worst_comes_first():
    found = [replace(SOUND[0], message=0.01, cosine=0.0), replace(SOUND[1], added=6.0, gap=7.0), SOUND[2]]
    hints = find_hints(found, Learning(readout=0), "backprop")
    assert [next(w for w in ("collapsed", "lost", "direction") if w in text) for text in hints] == [
        "collapsed",
        "lost",
        "direction",
    ]


@pytest.mark.parametrize("rule", ["target-projection", "direct-feedback-alignment"])
def test_rules_are_not_told_to_set_what_they_do_not_listen_to(rule):
    bad = {"cosine": 0.0, "own": 10.0, "explained": 10.0, "frozen_probe": 70.0, "added": 5.0, "gap": 9.0}
    told = flags(" ".join(find_hints(blocks(1, **bad), Learning(rule=rule), "backprop")))
    assert not any(flag.startswith(("--readout", "--reconstruction", "--objective")) for flag in told)
    assert ("--scope neighbour" in told) == (rule == "target-projection")


@pytest.mark.parametrize("rule", ["backprop", "feedback-alignment", "frozen"])
def test_rules_without_local_losses_are_told_so(rule):
    text = hint(blocks(1, cosine=None, own=None, frozen_probe=70.0), rule=rule)
    assert text.startswith(rule)
    assert not flags(text)


def test_one_block_cannot_learn_locally():
    assert "one block" in hint([replace(SOUND[0], frozen_probe=None)])


def test_unknown_figures_are_no_fault():
    nothing = dict.fromkeys(
        ("cosine", "message", "message_at_start", "own", "frozen_probe", "against_probe", "gap", "added")
    )
    found = [replace(b, **nothing, against_explained=None, frozen_explained=None) for b in SOUND]
    assert find_hints(found, Learning(readout=0)) == find_hints(SOUND, Learning(readout=0))


@pytest.mark.parametrize("flag", ["--objective evidence", "--scope neighbour", "--readout 2", "--reconstruction 2"])
def test_the_flags_are_settings_that_exist(flag):
    name, value = flag.removeprefix("--").split()
    Learning(**{name: type(getattr(Learning(), name))(value)})
    with pytest.raises((InputError, TypeError)):
        Learning(**{name: object()})
