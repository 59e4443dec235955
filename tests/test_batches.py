"""Random streams, augmentation and batches: what is random, what is fixed, and that a run can be resumed."""

from __future__ import annotations

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator, seeded, stream_seed
from blocklocal.data import Batches, Images, augmenter, cutout, load_images, random_crop, random_flip
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.sets import normalise

torch.set_num_threads(1)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def images(count: int = 23, channels: int = 3, side: int = 8) -> Images:
    """Random pixels from 1 up (0 marks what augmentation fills in); the label is the position."""
    pixels = torch.randint(1, 256, (count, channels, side, side), generator=generator("test"), dtype=torch.uint8)
    return Images(pixels, torch.arange(count))


def batches(data: Images | None = None, **options) -> Batches:
    data = images() if data is None else data
    channels = data.pixels.shape[1]
    return Batches(data, **{"batch_size": 4, "mean": (0.5,) * channels, "std": (0.25,) * channels, **options})


def order(steps) -> list[int]:
    return [label for _, y in steps for label in y.tolist()]


def same(a, b) -> bool:
    pairs = list(zip(list(a), list(b), strict=True))
    return all(torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in pairs)


# --- streams ---------------------------------------------------------------------------------------------------------


def test_stream_seed_is_the_same_in_every_process():
    assert stream_seed("order", 0, 1) == 4904593311491359861


def test_streams_differ_in_every_part_and_in_how_parts_are_cut():
    names = [("a", 1), ("a", "1"), ("a", 2), ("a1",), ("b", 1), ("a", 1, 0), (), ("ab", "c"), ("a", "bc"), ("a|i1",)]
    seeds = {stream_seed(*parts) for parts in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeded_repeats_its_numbers_and_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded("dropout", 3):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_seeded_restores_the_global_stream_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), seeded("x"):
        torch.rand(2).view(3)
    assert torch.equal(before, torch.random.get_rng_state())


# --- augmentation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flip_mirrors_some_images_and_leaves_the_others(dtype):
    x = images(64).pixels.to(dtype)
    y = random_flip(x, generator("flip"))
    flipped = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(x, y, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(x, y, strict=True)])
    assert torch.equal(flipped, ~kept)
    assert 16 < flipped.sum() < 48


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("reflect", [False, True])
def test_crop_shifts_each_image_by_up_to_the_padding(dtype, reflect):
    x = images(40).pixels.to(dtype)
    y = random_crop(x, 2, generator("crop"), reflect=reflect)
    padded = torch.nn.functional.pad(x.float(), (2, 2, 2, 2), mode="reflect" if reflect else "constant")
    shifts = []
    for wide, small in zip(padded, y.float(), strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if torch.equal(wide[:, i : i + 8, j : j + 8], small)]
        assert len(places) == 1
        shifts += places
    assert {i for i, _ in shifts} == {j for _, j in shifts} == set(range(5))  # every shift in both directions occurs
    assert y.dtype == dtype


def test_crop_fills_in_the_given_value_per_channel():
    y = random_crop(images(20, 2).pixels.float(), 3, generator("crop"), fill=(-1.0, -2.0))
    assert y[:, 0].min() == -1
    assert y[:, 1].min() == -2
    assert not (y[:, 0] == -2).any()


def test_cutout_paints_one_square_the_same_in_all_channels():
    x = images(200).pixels
    y = cutout(x, 4, generator("cutout"))
    gone = y == 0
    assert torch.equal(gone.any(1), gone.all(1))
    assert torch.equal(y[~gone], x[~gone])
    area = gone[:, 0].flatten(1).sum(1)
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(area, rows * columns)  # a rectangle without holes
    assert area.max() == 16
    assert area.min() >= 4  # at a corner a quarter of the square is inside
    assert len(torch.unique(gone[:, 0], dim=0)) > 20


@pytest.mark.parametrize("augment", [random_flip, lambda x, g: random_crop(x, 2, g), lambda x, g: cutout(x, 3, g)])
def test_augmentation_repeats_with_the_stream_and_does_not_change_its_input(augment):
    x = images().pixels
    before = x.clone()
    assert torch.equal(augment(x, generator(1)), augment(x, generator(1)))
    assert not torch.equal(augment(x, generator(1)), augment(x, generator(2)))
    assert torch.equal(x, before)


def test_augmenter_applies_the_names_in_order_with_their_sizes():
    x, g = images().pixels, generator("a")
    expected = cutout(random_flip(random_crop(x, 3, g), g), 2, g)
    assert torch.equal(augmenter("crop:3, flip,cutout:2")(x, generator("a")), expected)
    assert torch.equal(augmenter(("crop:3", "flip", "cutout:2"))(x, generator("a")), expected)
    assert augmenter("")(x, generator("a")) is x


def test_crop_of_padding_zero_is_the_image():
    x = images().pixels
    assert torch.equal(random_crop(x, 0, generator()), x)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x, g: augmenter("crop,flop"), "unknown augmentation 'flop'. Did you mean 'flip'"),
        (lambda x, g: augmenter("crop:many"), "crop:many"),
        (lambda x, g: augmenter("flip:2"), "flip:2"),
        (lambda x, g: random_crop(x, -1, g), "padding must be"),
        (lambda x, g: random_crop(x, 8, g, reflect=True), "less than"),
        (lambda x, g: cutout(x, 9, g), "larger than the image"),
    ],
)
def test_augmentation_that_cannot_be_done_is_refused(use, message):
    with pytest.raises(InputError, match=message):
        use(images().pixels, generator())


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batches_are_normalised_floats_with_integer_labels():
    data = images()
    x, y = next(iter(batches(data, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))))
    expected = (data.pixels[:4] / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 1, 2]).view(
        3, 1, 1
    )
    torch.testing.assert_close(x, expected)
    assert x.dtype == torch.float32
    assert y.tolist() == [0, 1, 2, 3]
    assert y.dtype == torch.int64


def test_an_epoch_holds_every_image_once_and_len_counts_its_steps():
    for shuffle in (False, True):
        loader = batches(shuffle=shuffle)
        steps = list(loader)
        assert sorted(order(steps)) == list(range(23))
        assert len(steps) == len(loader) == 6
        assert steps[-1][0].shape[0] == 3


def test_a_leftover_of_one_image_is_dropped_only_when_shuffling():
    data = images(9)
    assert order(batches(data)) == list(range(9))
    loader = batches(data, shuffle=True)
    assert [len(y) for _, y in loader] == [4, 4]
    assert len(loader) == 2
    seen = {label for epoch in range(20) for label in order(loader.epoch(epoch))}
    assert seen == set(range(9))  # another image is left out each epoch


def test_a_single_image_and_batches_of_one_are_kept_when_shuffling():
    assert len(batches(images(1), shuffle=True)) == 1
    assert len(list(batches(images(5), shuffle=True, batch_size=1))) == 5


def test_order_changes_with_epoch_and_seed_and_nothing_else():
    a = batches(shuffle=True)
    assert order(a.epoch(0)) == order(batches(shuffle=True, batch_size=23, augment="flip").epoch(0))
    assert order(a.epoch(0)) != order(a.epoch(1))
    assert order(a.epoch(0)) != order(batches(shuffle=True, seed=1).epoch(0))


def test_iterating_counts_the_epochs_up():
    loader = batches(shuffle=True, augment="crop,flip")
    for epoch in range(3):
        assert same(iter(loader), batches(shuffle=True, augment="crop,flip").epoch(epoch))


def test_resuming_in_mid_epoch_gives_the_same_batches_bit_for_bit():
    options = {"shuffle": True, "augment": "crop,flip,cutout", "seed": 5}
    whole = list(batches(**options).epoch(3))
    for start in range(len(whole) + 1):
        assert same(whole[start:], batches(**options).epoch(3, start))


def test_augmentation_differs_between_steps_and_epochs():
    data = Images(torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(8, 1, 1, 1), torch.arange(8))
    loader = batches(data, augment="crop:4")
    (a, _), (b, _) = loader.epoch(0)
    (c, _), _ = loader.epoch(1)
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)


def test_global_random_numbers_are_neither_used_nor_moved():
    before = torch.random.get_rng_state()
    list(batches(shuffle=True, augment="crop,flip,cutout"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_channels_last_changes_the_layout_and_no_value():
    plain, last = batches(augment="crop"), batches(augment="crop", channels_last=True)
    x, _ = next(iter(last))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert not x.is_contiguous()
    assert same(plain.epoch(0), last.epoch(0))


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_sees_the_same_pictures(device):
    options = {"shuffle": True, "augment": "crop,reflect,flip,cutout"}
    for (x, y), (v, w) in zip(batches(**options), batches(**options, device=device), strict=True):
        assert v.device.type == device
        torch.testing.assert_close(x, v.cpu(), rtol=0, atol=1e-6)
        assert torch.equal(y, w.cpu())


def test_pixels_stay_uint8_on_the_device():
    assert batches().pixels.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"mean": (0.5,)}, "mean has 1 values.*3 channels"),
        ({"mean": 1}, "mean must be a list of one number per channel, not 1"),
        ({"std": None}, "std must be a list of one number per channel, not None"),
        ({"mean": "abc"}, "mean must be a list.*not 'abc'"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean must be a list.*nan"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be above 0"),
        ({"data": images().subset([])}, "no images"),
        ({"augment": "blur"}, "unknown augmentation"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        batches(**options)


def test_batches_of_a_whole_image_set_or_of_pixels_alone_are_refused():
    for wrong in (load_images("digits"), images().pixels):
        with pytest.raises(InputError, match=r"the images of one split, as data\.train, not (ImageSet|Tensor)"):
            Batches(wrong, batch_size=2, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 7)])
def test_a_step_that_the_epoch_does_not_have_is_refused_at_once(epoch, start):
    with pytest.raises(InputError, match="steps 0 to 6"):
        batches().epoch(epoch, start)


def test_a_single_picture_is_normalised_as_a_batch_is_bit_for_bit():
    images = Images(torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    mean, std = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)
    ((x, _),) = Batches(images, batch_size=2, mean=mean, std=std)
    assert torch.equal(normalise(images.pixels, DatasetInfo(("a",), 3, 4, 4, mean, std)), x)
