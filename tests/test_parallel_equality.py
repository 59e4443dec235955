"""Oracle: the same blocks in one process. Weights, losses and predictions agree bit for bit, however spread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parallel_cases import BLOCKS, CASES, LOCAL, batches, make
from parallel_helpers import work
from rule_helpers import same

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]


# Three: a first, a middle and a last process, one of which has several blocks.
SLOW = pytest.mark.slow


@pytest.fixture(scope="module", params=[pytest.param(2, marks=SLOW), 3, pytest.param(4, marks=SLOW)])
def spread(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Every case, trained in 2, 3 and 4 processes."""
    folder = tmp_path_factory.mktemp(f"processes{request.param}")
    work("equality", request.param, folder)
    return request.param, folder


def alone(case: str) -> dict:
    """The case in one process."""
    torch.set_num_threads(1)
    net = make(case)
    net.configure(net.optimizer, "one-cycle", 10)
    losses = []
    for epoch in range(2):
        net.epoch = epoch
        for x, y in batches(case):
            losses.append([None if r is None else r.loss for r in net.step(x, y)])
    net.eval()
    logits = net.block_logits(batches(case)[0][0])
    weights = {learner.index: learner.state_dict() for learner in net.learners}
    return {"losses": losses, "logits": logits, "sizes": net.message_sizes(), "weights": weights}


def equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_blocks_in_several_processes_learn_what_they_learn_in_one(spread, case):
    size, folder = spread
    one, shares = alone(case), [torch.load(folder / f"{case}.{rank}") for rank in range(size)]
    assert sorted(k for share in shares for k in share["weights"]) == list(range(BLOCKS))
    for share in shares:
        for k, weights in share["weights"].items():
            assert same(weights, one["weights"][k]), f"block {k + 1}"
    for step, losses in enumerate(one["losses"]):
        assert all(map(equal, losses, [loss for share in shares for loss in share["losses"][step]]))
    assert all(map(equal, one["logits"], [logits for share in shares for logits in share["logits"]]))
    assert one["sizes"] == [size for share in shares for size in share["sizes"]]


def test_every_rule_without_a_gradient_between_blocks_is_a_case():
    assert set(LOCAL) <= set(CASES)
    assert len(LOCAL) >= 4
