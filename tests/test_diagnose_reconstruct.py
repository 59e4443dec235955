"""Reconstruction of the image. Oracles: numpy's least squares, predictions row by row, blocks known to keep all."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blocklocal.diagnose.reconstruct import Moments, explained, ridge, rows


def drawn(count, units=4, pixels=3, seed=0, noise=0.5):
    """Rows of units [R, U] and pixels [R, P] that depend on them linearly but for noise."""
    draw = torch.Generator().manual_seed(seed)
    u = torch.randn(count, units, generator=draw) + 2
    mix = torch.randn(units, pixels, generator=torch.Generator().manual_seed(99))
    return u, u @ mix - 1 + noise * torch.randn(count, pixels, generator=draw)


def test_ridge_is_the_least_squares_solution_of_numpy():
    """Ridge as ordinary least squares: one more row per unit, with the root of the strength on its diagonal."""
    u, p = (tensor.double().numpy() for tensor in drawn(50))
    centred = u - u.mean(0)
    strength = centred.var(0).mean() * u.shape[1] / len(u) * len(u)
    more = np.vstack([centred, np.sqrt(strength) * np.eye(u.shape[1])])
    wanted = np.linalg.lstsq(more, np.vstack([p - p.mean(0), np.zeros((u.shape[1], p.shape[1]))]), rcond=None)[0]
    weight, offset = ridge(Moments.of(torch.from_numpy(u), torch.from_numpy(p)))
    np.testing.assert_allclose(weight.numpy(), wanted, rtol=1e-8)
    np.testing.assert_allclose(offset.numpy(), p.mean(0) - u.mean(0) @ wanted, rtol=1e-8)


def test_the_share_is_that_of_predictions_made_row_by_row():
    fit, (u, p) = drawn(60), drawn(40, seed=1)
    weight, offset = ridge(Moments.of(*fit))
    error = (p.double() - (u.double() @ weight + offset)).square().sum()
    wanted = 100 * (1 - error / p.double().square().sum()).item()
    assert explained(Moments.of(*fit), Moments.of(u, p)) == pytest.approx(wanted, abs=1e-8)
    assert 50 < wanted < 100


def test_batches_add_up():
    u, p = drawn(60)
    together, parts = (
        Moments.of(u, p),
        Moments.of(u[:7], p[:7]) + Moments.of(u[7:20], p[7:20]) + Moments.of(u[20:], p[20:]),
    )
    assert together.count == parts.count
    for name in ("units", "pixels", "within", "across", "power"):
        torch.testing.assert_close(getattr(together, name), getattr(parts, name))


def images(count=40, side=8, seed=0):
    return torch.randn(count, 2, side, side, generator=torch.Generator().manual_seed(seed))


def share_of(block, side=8):
    """Percent that `block` keeps of images of noise."""
    fit, held = images(200, side), images(50, side, seed=1)
    return explained(*(Moments.of(*rows(block(x), x)) for x in (fit, held)))


def test_a_block_that_only_rearranges_pixels_keeps_all_of_the_image():
    assert share_of(lambda x: F.pixel_unshuffle(x, 4)) == pytest.approx(100, abs=0.2)
    assert share_of(lambda x: x * 3 + 1) == pytest.approx(100, abs=0.2)


def test_a_block_that_keeps_one_channel_of_two_keeps_half():
    assert share_of(lambda x: x[:, :1]) == pytest.approx(50, abs=2)


def test_a_mean_of_four_pixels_keeps_a_quarter_of_noise():
    assert share_of(lambda x: F.avg_pool2d(x, 2)) == pytest.approx(25, abs=2)


def test_an_output_that_never_changes_keeps_nothing():
    assert share_of(lambda x: torch.ones(len(x), 3, 4, 4)) == pytest.approx(0, abs=1)
    assert share_of(lambda x: torch.zeros(len(x), 5)) == pytest.approx(0, abs=1)


def test_noise_keeps_nothing():
    draw = torch.Generator().manual_seed(7)
    assert share_of(lambda x: torch.randn(len(x), 8, 4, 4, generator=draw)) == pytest.approx(0, abs=2)


def test_a_flat_output_is_read_by_all_its_units():
    assert share_of(lambda x: x.flatten(1)[:, ::2], side=4) == pytest.approx(50, abs=8)


def test_the_pixels_of_a_row_lie_under_its_position():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    units, pixels = rows(torch.arange(3 * 2 * 3.0).view(1, 3, 2, 3), x)
    assert units.shape == (6, 3)
    assert pixels.shape == (6, 8)
    position = 1 * 3 + 2  # row 1, column 2 of the map
    assert units[position].tolist() == [5, 11, 17]
    assert torch.equal(pixels[position].view(2, 2, 2), x[0, :, 2:4, 4:6])


@pytest.mark.parametrize("side", [3, 5, 8, 12])
def test_sides_that_do_not_divide_scale_the_image_and_keep_its_mean(side):
    x = torch.ones(2, 1, 8, 8) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    units, pixels = rows(torch.zeros(2, 4, side, side), x)
    assert units.shape == (2 * side * side, 4)
    assert len(pixels) == len(units)
    patch = -(-8 // side)
    assert pixels.shape[1] == patch * patch
    assert torch.equal(pixels[: side * side].unique(), torch.tensor([1.0]))
    assert torch.equal(pixels[side * side :].unique(), torch.tensor([3.0]))


def test_images_without_any_variance_explain_nothing():
    still = Moments.of(torch.randn(10, 3), torch.zeros(10, 2))
    assert explained(still, still) == 0.0
