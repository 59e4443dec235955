"""Readout, decoder and similarity. Oracles: shapes, the family's own divergence, plain loops."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from blocklocal.block.auxiliary import Reconstructor, similarity
from blocklocal.block.loss import HiddenLoss
from blocklocal.block.objectives import OBJECTIVES
from blocklocal.block.targets import Classes
from blocklocal.families import family

FLAT, MAP, SEQUENCE = torch.Size([4, 6]), torch.Size([4, 6, 8, 8]), torch.Size([4, 5, 6])


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module.modules() if not list(layer.children())]


# --- reconstruction


@pytest.mark.parametrize("wanted", [(4, 3, 8, 8), (4, 3, 16, 16), (4, 3, 5, 5)])
def test_a_decoder_of_maps_predicts_at_the_blocks_own_resolution(wanted):
    decoder = Reconstructor(MAP, torch.Size(wanted))
    assert decoder(torch.randn(MAP)).shape == (4, 3, 8, 8)
    assert decoder.loss(torch.randn(MAP), torch.randn(wanted)).shape == ()


def test_the_size_of_the_features_does_not_matter_to_a_decoder_of_maps():
    decoder, h = Reconstructor(MAP, MAP), torch.randn(MAP)
    torch.testing.assert_close(decoder(1000 * h), decoder(h), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("given", "wanted"), [(FLAT, MAP), (FLAT, FLAT), (MAP, FLAT), (SEQUENCE, FLAT)])
def test_a_decoder_of_anything_else_predicts_every_value(given, wanted):
    decoder = Reconstructor(given, wanted)
    assert decoder(torch.randn(given)).shape == (4, wanted[1:].numel())
    assert decoder.loss(torch.randn(given), torch.randn(wanted)).shape == ()


def test_a_decoder_of_sequences_predicts_at_every_position():
    decoder = Reconstructor(SEQUENCE, torch.Size([4, 5, 3]))
    assert decoder(torch.randn(SEQUENCE)).shape == (4, 5, 3)
    assert decoder(torch.randn(2, 9, 6)).shape == (2, 9, 3)


@pytest.mark.parametrize("shape", [FLAT, MAP, SEQUENCE])
def test_the_reconstruction_loss_is_the_divergence_between_gaussians_of_variance_half(shape):
    decoder = Reconstructor(shape, shape).double()
    h, wanted = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = decoder(h)

    def natural(m):  # (m/v, −1/(2v)) at v = ½
        return torch.stack((2 * m, torch.full_like(m, -1.0)), -1)

    divergence = family("gaussian-variance").kl(natural(wanted.reshape(mean.shape)), natural(mean))
    torch.testing.assert_close(decoder.loss(h, wanted), divergence.mean())


def test_a_larger_image_is_averaged_over_the_area_of_each_pixel():
    decoder = Reconstructor(MAP, torch.Size([4, 3, 16, 16]))
    h, image = torch.randn(MAP), torch.randn(4, 3, 16, 16)
    small = image.unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean((3, 5))
    torch.testing.assert_close(decoder.loss(h, image), (decoder(h) - small).square().mean())


def test_the_reconstruction_reaches_the_features_and_not_the_image():
    decoder, h, image = Reconstructor(MAP, MAP), torch.randn(MAP, requires_grad=True), torch.randn(MAP)
    decoder.loss(h, image).backward()
    assert h.grad is not None
    assert h.grad.abs().sum() > 0


# --- similarity


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def similarity_by_loops(h, targets):
    """Nøkland & Eidnes 2019, eq. 3 and 4, one pair at a time."""
    rows = []
    for sample in h:
        units = sample.flatten(1).std(1) if sample.dim() == 3 else sample
        rows.append(units - units.mean())
    errors = [
        (cosine(rows[i], rows[j]) - cosine(targets[i], targets[j])) ** 2 for i in range(len(h)) for j in range(len(h))
    ]
    return sum(errors) / len(errors)


@pytest.mark.parametrize("shape", [FLAT, MAP])
def test_similarity_is_its_definition_in_loops(shape):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = F.one_hot(torch.tensor([0, 1, 1, 2])).double()
    assert float(similarity(h, targets)) == pytest.approx(similarity_by_loops(h, targets), rel=1e-10)


def test_similarity_vanishes_where_equal_classes_are_parallel_and_others_orthogonal():
    directions = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
    y = torch.tensor([0, 1, 0, 1])
    scale = torch.tensor([[1.0], [2.0], [3.0], [0.5]])
    assert similarity(scale * directions[y] + 7, F.one_hot(y).float()) < 1e-12
    assert similarity(scale * directions[y] + 7, F.one_hot(1 - y.roll(1)).float()) < 1e-12
    assert similarity(scale * directions[y], F.one_hot(torch.tensor([0, 0, 1, 1])).float()) > 0.1


@pytest.mark.parametrize("shape", [FLAT, MAP, SEQUENCE])
def test_samples_without_a_target_take_no_part_in_similarity(shape):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = F.one_hot(torch.tensor([0, 1, 1, 2])).float()
    targets[2:] = 0
    loss = similarity(h, targets)
    torch.testing.assert_close(loss, similarity(h[:2], targets[:2]))
    (gradient,) = torch.autograd.grad(loss, h)
    assert not gradient[2:].any()
    assert gradient[:2].any()
    assert similarity(h, torch.zeros(4, 3)) == 0


def test_similarity_of_sequence_targets_is_the_share_of_positions_that_agree():
    y = torch.tensor([[0, 1, 2, 0], [0, 1, 0, 1]])
    h = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # parallel features: cosine 1
    assert float(similarity(h, F.one_hot(y, 3).float())) == pytest.approx((0 + 2 * (1 - 0.5) ** 2 + 0) / 4)


# --- in a block's loss


def test_the_parts_of_a_loss_are_weighted_and_add_up_to_it():
    torch.manual_seed(0)
    h, y, image = torch.randn(4, 6, 8, 8), torch.tensor([0, 1, 1, 2]), torch.randn(4, 1, 8, 8)
    bernoulli, decoder = family("bernoulli"), Reconstructor(MAP, torch.Size([4, 1, 8, 8]))
    local = HiddenLoss(
        family=bernoulli,
        objective=OBJECTIVES.get("evidence"),
        targets=Classes(3),
        decoders={"image": decoder},
        weights={"similarity": 2.0, "image": 3.0},
        message_scale=1.0,
    )
    result = local(h, y, message=torch.randn(3, 1, 6), wanted={"image": image}, mix=1.0)
    features = bernoulli.mean(h)
    torch.testing.assert_close(result.parts["similarity"], 2 * similarity(features, F.one_hot(y).float()))
    torch.testing.assert_close(result.parts["image"], 3 * decoder.loss(features, image).detach())
    torch.testing.assert_close(result.loss.detach(), sum(result.parts.values()))
    assert list(result.parts) == ["evidence", "similarity", "image"]
