"""The local objectives: what a hidden block's loss is, as pure functions of the two messages.

Shapes: B samples, P positions of a feature map or sequence (1 for flat latents), U latent units, R target rows.

    phi    [B, P, U, …]   natural parameters of the forward message α_k (… = the family's event dimensions)
    table  [R, P', U, …]  the backward message b for every target row; P' = P, or 1 where all positions share it

An objective gives the loss whose gradient trains the block, its readout and its twin. Adding one is one function
and one `OBJECTIVES.add`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from blocklocal._common.choices import OrderName, values
from blocklocal._common.errors import InputError
from blocklocal._common.registry import Registry
from blocklocal.block.pieces import cross_entropy_in_pieces
from blocklocal.block.targets import Asked, Targets, values_of
from blocklocal.block.weighting import mean_of_real, spread
from blocklocal.families import Family

ORDERS = values(OrderName)


@dataclass(frozen=True)
class Terms:
    """The settings of an objective, and which positions of a batch count."""

    order: str = "second"  # how the evidence is computed: exact, or to first or second order in b
    temperature: float = 1.0  # divides the evidence before the softmax
    smoothing: float = 0.0  # label smoothing
    mix: float = 1.0  # m of Eq. 9; the evidence always uses m = 1
    per_position: bool = False  # targets [B, P] rather than [B]: a sequence with one target per position, or pixels
    pixels: bool = False  # whether the positions are those of pictures
    mask: Tensor | None = None  # [B, P], true where a position is real; None where all are
    prior: Tensor | None = None  # log p(y) of every row up to a constant, [R]; None for a uniform one
    negatives: float = 1.0  # of the rows that a batch does not ask for, the share over which its loss is normalised


class Match(NamedTuple):
    """What matching the two messages gave: the loss, and what was made on the way.

    Attributes:
        scores: [B, R] or [B, P, R], where any were made.
        sums: what `Targets.measure` says of them, where they were not kept.
    """

    loss: Tensor
    scores: Tensor | None = None
    sums: Tensor | None = None


Compute = Callable[[Family, Tensor, Tensor, Targets, Asked, Terms], Match]  # (family, phi, table, targets, y, terms)


@dataclass(frozen=True)
class Objective:
    """A named local loss.

    Attributes:
        matches: whether the two messages are matched at all; else a block has neither twin nor readout.
    """

    name: str
    summary: str
    compute: Compute
    matches: bool = True


OBJECTIVES: Registry[Objective] = Registry("objective")


def mixing(tau: float, epoch: int) -> float:
    """The paper's data-mixing schedule m = 1/(1 + τM), M = 0, 1, … the epoch (§3.4).

    Raises:
        InputError: τ is below 0.
    """
    if tau < 0:
        raise InputError(f"tau must be 0 or more, not {tau}.")
    return 1.0 / (1.0 + tau * epoch)


def evidence(
    family: Family,
    phi: Tensor,
    table: Tensor,
    order: str = "second",
    per_position: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """e_y = Σ_units A(φ + b_y) − A(φ) = log ⟨exp⟨T(z), b_y⟩⟩_α for every target row (method §3).

    The first and second order in b, ⟨μ, b⟩ (+ ½ bᵀ Cov b), are matrix products of averaged moments; `exact` holds
    B·R·P·U values at a time.

    Args:
        phi: natural parameters [B, P, U, …].
        table: messages [R, P', U, …].
        order: the order in b up to which it is computed, or "exact".
        per_position: do not average over positions.
        mask: the positions that are averaged over, [B, P]; None for all.

    Returns:
        [B, R], averaged over positions (a tempered product over them), or [B, P, R] with `per_position`.

    Raises:
        InputError: the order is unknown.
    """
    if order not in ORDERS:
        raise InputError(f"evidence order must be one of {', '.join(ORDERS)}, not {order!r}.")
    shared = table.shape[1] == 1
    if order == "exact" or family.event_dims:
        return _evidence_by_broadcast(family, phi, table, order, per_position, mask)
    scores = _moment(family.mean(phi), table, shared, per_position, mask)
    if order == "second":
        scores = scores + 0.5 * _moment(family.variance(phi), table.square(), shared, per_position, mask)
    return scores


def _moment(moment: Tensor, weight: Tensor, shared: bool, per_position: bool, mask: Tensor | None) -> Tensor:
    """⟨moment, weight⟩ summed over units, averaged over (real) positions unless `per_position`."""
    if per_position:
        return moment @ weight[:, 0].T if shared else torch.einsum("bpu,rpu->bpr", moment, weight)
    if shared:
        return mean_of_real(moment, mask) @ weight[:, 0].T
    if mask is not None:
        return mean_of_real(torch.einsum("bpu,rpu->bpr", moment, weight), mask)
    return moment.flatten(1) @ weight.flatten(1).T / moment.shape[1]


def _evidence_by_broadcast(
    family: Family, phi: Tensor, table: Tensor, order: str, per_position: bool, mask: Tensor | None
) -> Tensor:
    phi, b = phi.unsqueeze(1), table.unsqueeze(0)  # [B, 1, P, U, …], [1, R, P', U, …]
    if order == "exact":
        each = family.evidence(phi, b)
    elif order == "second":
        each = family.evidence_second_order(phi, b)
    else:
        each = (family.mean(phi) * b).sum(-1)  # only families with an event dimension come here
    scores = each.sum(-1)  # over units: [B, R, P]
    if per_position:
        return scores.transpose(1, 2)
    return scores.mean(-1) if mask is None else mean_of_real(scores.transpose(1, 2), mask)


def _evidence_loss(family: Family, phi: Tensor, table: Tensor, targets: Targets, y: Asked, terms: Terms) -> Match:
    """−log softmax_y(e): the negative log of p(y | z_k, x), normalised over the possible targets (method §3)."""
    if _in_pieces(family, table, targets, y, terms):
        moments, wanted = family.mean(phi).flatten(0, 1), values_of(y).flatten().long()
        asked = (moments, table[:, 0], terms.prior, wanted)
        found = cross_entropy_in_pieces(*asked, terms.temperature, terms.negatives)
        return Match(found.loss, sums=found.sums)
    logits = scores(family, phi, table, terms)
    return Match(targets.loss(logits, y, terms.smoothing), logits)


def _in_pieces(family: Family, table: Tensor, targets: Targets, y: Asked, terms: Terms) -> bool:
    """Whether the logits are one product of two matrices, of too many rows to be kept."""
    product = terms.order == "first" and not family.event_dims and table.shape[1] == 1 and terms.per_position
    plain = targets.large and not targets.weighs(y) and not terms.smoothing
    return product and plain


def scores(family: Family, phi: Tensor, table: Tensor, terms: Terms) -> Tensor:
    """The logits that a block gives every target row: its evidence over the temperature, and the row's log prior."""
    found = evidence(family, phi, table, terms.order, terms.per_position, terms.mask) / terms.temperature
    return found if terms.prior is None else found + terms.prior


def _own_message(phi: Tensor, table: Tensor, targets: Targets, y: Asked) -> Tensor:
    """b of every sample's own target, [B, P, U, …]."""
    own = targets.pick(table, y)
    if len(own) != len(phi) or own.shape[1] not in (1, phi.shape[1]):
        raise InputError(
            f"targets of shape {list(values_of(y).shape)} do not fit {len(phi)} samples with {phi.shape[1]} positions "
            "each: give one target per sample, or one per position where the network answers at every position."
        )
    return own.expand_as(phi)


def _mean(each: Tensor, targets: Targets, y: Asked, terms: Terms) -> Tensor:
    """The mean of a loss [B, P, …] over positions and units, and over samples as much as their targets count.

    Every term counts as its part of the mean weight, which is exactly 1 where all targets count the same.
    """
    weights = targets.weights(y)
    if terms.mask is not None and weights.dim() == 1:
        each = mean_of_real(each, terms.mask)
    mean = weights.mean()
    return (each * spread(weights / torch.where(mean > 0, mean, 1.0), each)).mean()


def _variational_loss(family: Family, phi: Tensor, table: Tensor, targets: Targets, y: Asked, terms: Terms) -> Match:
    """D_KL(ρ ‖ α), γ = a + m·b (Eq. 7, 9): the mean over units and positions."""
    gamma = family.product(phi, terms.mix * _own_message(phi, table, targets, y))
    return Match(_mean(family.kl(gamma, phi), targets, y, terms))


def _printed_eq8(family: Family, phi: Tensor, table: Tensor, targets: Targets, y: Asked, terms: Terms) -> Match:
    """The update as the paper prints it for Bernoulli units (Eq. 8): (ρ − α) ∂a − ρ(1 − ρ) b (∂a + ∂b).

    It keeps no m in its second term, so it is the gradient of no divergence unless m = 1. The value returned is the
    divergence of Eq. 7; the gradient is Eq. 8's.
    """
    b = _own_message(phi, table, targets, y)
    with torch.no_grad():
        rho, alpha = torch.sigmoid(phi + terms.mix * b), torch.sigmoid(phi)
        forward_weight, posterior_weight = rho - alpha, rho * (1 - rho) * b
        value = _mean(family.kl(family.product(phi, terms.mix * b), phi), targets, y, terms)
    update = forward_weight * phi - posterior_weight * (phi + b)
    return Match(value - _mean(update - update.detach(), targets, y, terms))


def _projection_loss(family: Family, phi: Tensor, table: Tensor, targets: Targets, y: Asked, terms: Terms) -> Match:
    """−⟨μ(α), b_y⟩: the expected log-likelihood of the target alone, unnormalised (meant for a fixed, random b).

    Its gradient on the activation μ is the projected target itself: direct random target projection
    (Frenkel et al. 2021, Front. Neurosci. 15).
    """
    own = terms.mix * _own_message(phi, table, targets, y)
    return Match(-_mean((family.mean(phi) * own).flatten(2).sum(-1), targets, y, terms))


def _nothing(family: Family, phi: Tensor, table: Tensor, targets: Targets, y: Asked, terms: Terms) -> Match:
    """0: the auxiliary losses alone train the block."""
    return Match(phi.new_zeros(()))


OBJECTIVES.add("evidence", Objective("evidence", "−log p(y | z) normalised over the targets (default)", _evidence_loss))
OBJECTIVES.add("variational", Objective("variational", "D_KL(ρ‖α), Eq. 7 of the paper", _variational_loss))
OBJECTIVES.add("printed-eq8", Objective("printed-eq8", "Eq. 8 as the paper prints it (Bernoulli)", _printed_eq8))
OBJECTIVES.add("projection", Objective("projection", "the projected target as the gradient (DRTP)", _projection_loss))
OBJECTIVES.add("none", Objective("none", "no message: reconstruction or similarity alone", _nothing, matches=False))
