"""Running sums of what the blocks report, kept on the device so that no training step waits for it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.finite import is_finite
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult
from blocklocal.block.shards import local_shard
from blocklocal.block.targets import Asked, Targets


class NotFinite(InputError):
    """A local loss, or a weight, became NaN or infinite.

    Args:
        what: names block and step.
    """

    def __init__(self, what: str):
        super().__init__(
            f"{what}. Checkpoints written before are kept; lower --lr, set --clip, or lower the weights of the parts."
        )


def check_weights(learner: BlockLearner, steps: int) -> None:
    """Raise NotFinite, with block and step, where an update has made a weight NaN or infinite."""
    finite = [is_finite(local_shard(parameter.detach())) for parameter in learner.parameters()]
    if finite and not torch.stack(finite).all():
        raise NotFinite(f"weights of block {learner.index + 1} are not finite after step {steps}")


def figures(targets: Targets, sums: Sequence[Tensor | None]) -> dict[str, list[float | None]]:
    """How good every block is, by the name of the measure; None where it predicts nothing."""
    known = [None if each is None else targets.figures(each) for each in sums]
    names = dict.fromkeys([*targets.measures, *(name for each in known if each is not None for name in each)])
    return {name: [None if each is None else each.get(name) for each in known] for name in names}


class Tally:
    """Loss, its parts, and training accuracy per block over one epoch.

    Args:
        first: index of the first of these blocks, where a process has a share of them; what is saved counts blocks from
            the network's first one.
    """

    def __init__(self, blocks: int, targets: Targets, first: int = 0):
        self.blocks, self.targets, self.first = blocks, targets, first
        self.sums: dict[str, Tensor | float] = {}
        self.steps = 0
        self._unchecked: list[tuple[int, Tensor]] = []

    def copy(self) -> "Tally":
        """One that stays as this one is now."""
        copied = Tally(self.blocks, self.targets, self.first)
        copied.sums, copied.steps, copied._unchecked = dict(self.sums), self.steps, list(self._unchecked)
        return copied

    def add(self, step: int, results: Sequence[LocalResult | None], y: Asked) -> None:
        """Take in the results of one training step (detached)."""
        self.steps += 1
        zero = torch.zeros((), device=y.device)
        losses = torch.stack([zero if r is None else r.loss.float() for r in results])
        self._unchecked.append((step, losses))
        self._sum("loss", losses)
        for k, result in enumerate(results, self.first):
            if result is None:
                continue
            for name, part in result.parts.items():
                self._sum(f"part/{k}/{name}", part)
            counts = result.counted(self.targets, y).sums
            if counts is not None:
                self._sum(f"right/{k}", counts)

    def _sum(self, name: str, value: Tensor) -> None:
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def check(self) -> list[float]:
        """The latest losses per block.

        Raises:
            NotFinite: a loss since the last check is not; the message has block and step.
        """
        unchecked, self._unchecked = self._unchecked, []
        values = torch.stack([losses for _, losses in unchecked]).tolist()
        for (step, _), losses in zip(unchecked, values, strict=True):
            for k, loss in enumerate(losses, self.first):
                if not abs(loss) < float("inf"):
                    raise NotFinite(f"the loss of block {k + 1} became {loss} at step {step}")
        return values[-1]

    def record(self) -> dict[str, list]:
        """Means over the epoch so far, per block: loss, its parts (None, {} without one), and what is measured.

        Of classes that is train_top1, in percent.
        """
        sums: dict[str, Any] = {name: torch.as_tensor(value).tolist() for name, value in self.sums.items()}
        parts: list[dict[str, float]] = [{} for _ in range(self.blocks)]
        sums_of: dict[int, Tensor] = {}
        for name, value in sums.items():
            kind, _, rest = name.partition("/")
            if kind == "part":
                k, _, part = rest.partition("/")
                parts[int(k) - self.first][part] = value / self.steps
            elif kind == "right":
                sums_of[int(rest) - self.first] = torch.tensor(value, dtype=torch.float64)
        loss = [s / self.steps if own else None for s, own in zip(sums["loss"], parts, strict=True)]
        measured = figures(self.targets, [sums_of.get(k) for k in range(self.blocks)])
        return {"loss": loss, **{f"train_{name}": values for name, values in measured.items()}, "parts": parts}

    def state(self) -> dict:
        """JSON-able, for a checkpoint in mid-epoch."""
        return {"steps": self.steps, "sums": {name: torch.as_tensor(v).tolist() for name, v in self.sums.items()}}

    def load(self, state: dict, device: torch.device) -> None:
        """Take over what was saved of these blocks."""
        self.steps = state["steps"]
        last = self.first + self.blocks
        for name, value in state["sums"].items():
            if name == "loss":
                value = value[self.first : last]
            elif not self.first <= int(name.split("/")[1]) < last:
                continue
            self.sums[name] = torch.tensor(value, dtype=torch.float64, device=device)


def merge(states: Sequence[dict]) -> dict:
    """The states of several tallies of neighbouring blocks over the same steps, as one of all their blocks."""
    sums: dict[str, Any] = {"loss": [loss for state in states for loss in state["sums"]["loss"]]}
    for state in states:
        sums |= {name: value for name, value in state["sums"].items() if name != "loss"}
    return {"steps": states[0]["steps"], "sums": sums}
