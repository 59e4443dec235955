"""Mixup and cutmix: images and targets in the same shares, from a stream of their own."""

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator
from blocklocal.data import Batches, Images
from blocklocal.data.mix import mixer


def constant(count: int = 8, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is i everywhere, and of class i."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 1, side, side).contiguous(), torch.arange(count)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "mixup:1", "cutmix:0.5"])
def test_the_share_of_a_class_is_the_share_of_its_pixels(name):
    x, labels = constant()
    for seed in range(5):
        mixed, soft = mixer(name, 8)(x, labels, generator("t", seed))
        torch.testing.assert_close(soft.sum(1), torch.ones(8))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(8.0))


def test_cutmix_leaves_every_pixel_one_of_two_images():
    x, labels = constant()
    mixed, soft = mixer("cutmix", 8)(x, labels, generator("t"))
    for image, row in zip(mixed, soft, strict=True):
        assert set(image.unique().tolist()) <= set(row.nonzero().flatten().tolist())


def test_batches_are_mixed_the_same_from_any_step():
    pixels = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator("t"))
    images = Images(pixels, torch.arange(20) % 3)
    options = {"batch_size": 4, "mean": (0.5,), "std": (0.5,), "shuffle": True, "mix": "mixup", "classes": 3}
    whole = list(Batches(images, **options).epoch(1))
    later = list(Batches(images, **options).epoch(1, 3))
    assert whole[0][1].shape == (4, 3)
    assert all(torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in zip(whole[3:], later, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": "mixin", "classes": 3}, r"unknown mix 'mixin'\. Did you mean 'mixup'"),
        ({"mix": "mixup:0", "classes": 3}, "a number above 0"),
        ({"mix": "mixup"}, "needs the number of classes"),
        ({"mix": "cutmix", "classes": 2}, "needs the number of classes"),
    ],
)
def test_what_cannot_be_mixed_is_refused(options, message):
    images = Images(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 3)
    with pytest.raises(InputError, match=message):
        Batches(images, batch_size=2, mean=(0.5,), std=(0.5,), **options)


def test_a_network_trains_on_mixed_images(tmp_path, monkeypatch):
    from blocklocal.cli import main

    monkeypatch.chdir(tmp_path)
    size = ["--train-size", "60", "--test-size", "20", "--epochs", "1", "--batch-size", "20", "--no-tensorboard"]
    model = ["--model", "mlp", "--width", "8", "--blocks", "2", "--mix", "cutmix"]
    assert main(["train", *size, *model, "--output", "run"]) == 0
