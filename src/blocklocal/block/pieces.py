"""Cross-entropy over many rows in pieces: the logits of a few positions at a time, and never of all.

A loss over V tokens at N positions has N · V logits, and autograd would keep them, and their softmax, for the backward
pass. Here every piece's gradients are taken as soon as its loss is: what stays is as large as the features and the
table. (Hsu et al. 2024, Liger Kernel, arXiv 2410.10989, §3.2, do the same in one GPU kernel.)

Shapes: N positions, U units, R rows.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from blocklocal.block.target import MISSING

MOST = 2**21  # logits at a time, at least those of one position


class LossAndSums(NamedTuple):
    """The mean loss with its graph; and [right, all, nats] as `Tokens.measure` has them."""

    loss: Tensor
    sums: Tensor


def cross_entropy_in_pieces(
    h: Tensor, table: Tensor, prior: Tensor | None, y: Tensor, temperature: float, negatives: float = 1.0
) -> LossAndSums:
    """The mean cross-entropy of the logits (h tableᵀ) / temperature + prior over the positions that have a target.

    Args:
        h: features [N, U].
        table: [R, U].
        prior: [R], or None.
        y: int64 [N], `MISSING` where there is none.
        negatives: of the rows that are no target here, the share that is drawn to stand for all of them.
    """
    if negatives < 1 and not isinstance(y, FakeTensor):  # where nothing has content, nothing can be drawn
        table, prior, y = _drawn(table, prior, y, negatives)
    loss, sums = _CrossEntropy.apply(h, table, prior, y, temperature)
    return LossAndSums(loss, sums)


def _drawn(table: Tensor, prior: Tensor | None, y: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that are targets and a share of the others, the prior of each, and the targets' places among them.

    In the sum over all rows by which a softmax is normalised, a drawn row stands for 1/share others: log(1/share) is
    added to its logit, so that the mean of that sum over many draws is the whole one (importance sampling: Bengio &
    Senécal 2008, IEEE Trans. Neural Networks 19; of targets and uniform others).
    """
    asked = torch.zeros(len(table), dtype=torch.bool, device=y.device)
    asked[y[y != MISSING]] = True
    rows = (asked | (torch.rand(len(table), device=y.device) < share)).nonzero().squeeze(1)
    stands_for = torch.where(asked[rows], 0.0, -math.log(share))
    place = torch.zeros(len(table), dtype=y.dtype, device=y.device)
    place[rows] = torch.arange(len(rows), dtype=y.dtype, device=y.device)
    y = torch.where(y == MISSING, MISSING, place[y.clamp(min=0)])
    return table[rows], stands_for if prior is None else prior[rows] + stands_for, y


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, table: Tensor, prior: Tensor | None, y: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], prior is not None and ctx.needs_input_grad[2])
        to_h = torch.empty_like(h) if wanted[0] else None
        to_table = _wide(torch.zeros_like(table)) if wanted[1] else None
        to_prior = torch.zeros_like(prior) if prior is not None and wanted[2] else None
        count = (y != MISSING).sum()
        scale, nats, right = 1.0 / count.clamp(min=1), 0.0, count.new_zeros(())
        size = max(1, MOST // len(table))
        for start in range(0, len(h), size):
            part = slice(start, start + size)
            logits = _wide(h[part] @ table.T)
            if temperature != 1:
                logits /= temperature
            if prior is not None:
                logits += prior
            there, place = y[part] != MISSING, y[part].clamp(min=0).unsqueeze(-1)
            own, largest = logits.gather(1, place), logits.amax(-1, keepdim=True)
            right = right + ((own == largest).squeeze(-1) & there).sum()
            error = logits.sub_(largest).exp_()  # every pass over the logits counts: there are N · V of them
            total = error.sum(-1, keepdim=True)
            nats = nats + ((total.log() + largest - own).squeeze(-1) * there).sum()
            error *= there.unsqueeze(-1) / total  # times the scale behind: so small, it would be lost in float16
            error.scatter_add_(1, place, -there.unsqueeze(-1).to(error.dtype))
            if to_prior is not None:
                to_prior += error.sum(0)
            if temperature != 1:
                error /= temperature
            error = error.to(h.dtype)
            if to_h is not None:
                to_h[part] = error @ table
            if to_table is not None:
                to_table += error.T @ h[part]
        ctx.save_for_backward(*(each for each in (to_h, to_table, to_prior) if each is not None))
        ctx.scale = scale
        ctx.wanted = tuple(each is not None for each in (to_h, to_table, to_prior))
        nats = torch.as_tensor(nats, device=h.device)
        sums = torch.stack([right.double(), count.double(), nats.double()])
        ctx.mark_non_differentiable(sums)
        return nats * scale, sums

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        saved = iter(ctx.saved_tensors)
        scale = grads[0] * ctx.scale
        found = [next(saved) * scale if there else None for there in ctx.wanted]
        return *found, None, None


def _wide(t: Tensor) -> Tensor:
    """In float32 where it has fewer digits."""
    return t if t.dtype in (torch.float32, torch.float64) else t.float()
