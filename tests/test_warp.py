"""Random resized crops and RandAugment: what each does to a picture whose answer is known."""

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator
from blocklocal.data.augment import augmenter
from blocklocal.data.randaugment import OPERATIONS, randaugment
from blocklocal.data.warp import random_resized_crop, warped

RAMP = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(6, 3, 1, 1)


def full(name: str, x: torch.Tensor, amount: float = 1.0) -> torch.Tensor:
    return OPERATIONS[name](x.float(), torch.full((len(x),), amount))


def test_a_map_that_changes_nothing_changes_nothing():
    assert torch.equal(warped(RAMP, torch.eye(2, 3).repeat(6, 1, 1)), RAMP)


def test_a_resized_crop_shows_a_part_of_the_picture_in_its_order():
    x = torch.arange(32.0).view(1, 1, 1, 32).expand(50, 1, 32, 32)
    seen = random_resized_crop(x, generator("t"), 0.25)
    steps = seen.diff(dim=3)
    assert seen.shape == x.shape
    assert (steps >= 0).all()
    assert (steps < 1.01).all()
    torch.testing.assert_close(seen[:, :, 10], seen[:, :, 20])
    assert seen[:, 0, 16, 16].std() > 1


def test_a_crop_of_the_whole_area_is_nearly_the_picture():
    seen = random_resized_crop(RAMP, generator("t"), 1.0)
    assert (seen.float() - RAMP.float()).abs().mean() < 30
    with pytest.raises(InputError, match="least must be"):
        random_resized_crop(RAMP, generator("t"), 0.0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_the_shape_and_is_mild_at_no_strength(name):
    for x in (RAMP, RAMP[:, :1], RAMP[:, :, :5, :7]):
        assert full(name, x).shape == x.shape
        if name not in ("autocontrast", "equalize"):
            torch.testing.assert_close(full(name, x, 0.0), x.float(), atol=1e-3, rtol=0)


def test_operations_do_what_they_say():
    x = RAMP[:1]
    assert torch.equal(full("solarize", x), 255 - x.float())
    assert torch.equal(full("posterize", x), (x // 16 * 16).float())
    torch.testing.assert_close(full("colour", x), x.float())  # it is grey
    assert full("brightness", x, -1.0).max().item() == pytest.approx(25.5)
    narrow = (x // 4 + 60).float()
    assert (full("autocontrast", narrow).min(), full("autocontrast", narrow).max()) == (0, 255)
    assert torch.equal(full("equalize", x), x.float())  # every level is there once already
    dark = (x.float() / 255).pow(4).mul(255).round()
    assert full("equalize", dark).mean() > dark.mean() + 40
    assert (full("shift across", x)[..., :7] != x[..., :7]).all()
    turned = full("rotate", torch.full((1, 1, 21, 21), 100.0))
    assert turned[0, 0, 10, 10] == pytest.approx(100)
    assert turned[0, 0, 0, 0] == 0


def test_images_of_a_batch_are_changed_in_different_ways_that_depend_on_the_stream_alone():
    a, b = (randaugment(RAMP, generator("t", 1), 15) for _ in range(2))
    assert a.dtype == torch.uint8
    assert torch.equal(a, b)
    assert len({each.numpy().tobytes() for each in a}) > 3
    assert not torch.equal(a, randaugment(RAMP, generator("t", 2), 15))


def test_both_go_by_name():
    for names in ("resized", "resized:30,flip", "randaugment", "randaugment:30"):
        assert augmenter(names)(RAMP, generator("t")).shape == RAMP.shape
    with pytest.raises(InputError, match="strength must be"):
        augmenter("randaugment:31")(RAMP, generator("t"))
