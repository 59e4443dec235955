"""Linear probes: how well a linear classifier, fitted afterwards, reads the classes off a block's output.

N images, F features, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTY = 1e-2  # L2 on the weights of standardised features, beside the mean cross-entropy in nats
ITERATIONS = 200  # of LBFGS; the problem is convex
POOLED = 2  # positions a side that maps are averaged to


def probe_features(a: Tensor) -> Tensor:
    """What a probe reads of an output [B, D] or [B, C, H, W]: [B, F], maps averaged to at most 2×2 positions."""
    if a.dim() == 2:
        return a
    return F.adaptive_avg_pool2d(a, (min(POOLED, a.shape[2]), min(POOLED, a.shape[3]))).flatten(1)


def probe_accuracy(fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], classes: int) -> float:
    """Percent correct on `held` of a probe fitted on `fit`; each is features [N, F] and labels [N]."""
    center, scale = _statistics(fit[0])
    weight, bias = fit_probe((fit[0] - center) / scale, fit[1], classes)
    scores = ((held[0] - center) / scale).to(weight.dtype) @ weight + bias
    return 100.0 * (scores.argmax(1) == held[1]).double().mean().item()


def fit_probe(features: Tensor, labels: Tensor, classes: int, penalty: float = PENALTY) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: (weight [F, C], bias [C]) in float64, from features [N, F] and labels [N].

    Minimises the mean cross-entropy plus penalty/2 times the sum of the squared weights. Deterministic.
    """
    x = features.double()
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x @ weight + bias, labels) + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)  # pyrefly: ignore
    return weight.detach(), bias.detach()


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [F] of the features; a feature that is always the same stays 0 when standardised."""
    deviation = features.std(0, correction=0)
    return features.mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
