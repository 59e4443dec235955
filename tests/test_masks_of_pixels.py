"""A class per pixel from folders of images and masks: what is read, moved, trained, evaluated and predicted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import blocklocal as bl
from blocklocal import InputError
from blocklocal._common.seeds import generator
from blocklocal.cli.main import main
from blocklocal.data import Batches, load_images
from blocklocal.data.augment import augmenter
from blocklocal.data.augment_masks import augmenter_alike
from blocklocal.data.images import NO_CLASS
from blocklocal.models import build_model

Image = pytest.importorskip("PIL.Image")
SIDE, COUNT = 16, 10


def classes_of(i: int, side: int = SIDE) -> np.ndarray:
    """Class 1 in the upper i + 1 rows, class 2 in the last column, without a target in the first pixel."""
    mask = np.zeros((side, side), np.uint8)
    mask[: i + 1] = 1
    mask[:, -1] = 2
    mask[0, 0] = NO_CLASS
    return mask


def write(folder: Path, count: int = COUNT, *, mode: str = "L") -> Path:
    """Pictures in which a pixel of class c has the level 40·c + i, beside their masks."""
    for inner in ("images", "masks"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        mask = classes_of(i)
        Image.fromarray(np.where(mask == NO_CLASS, 1, mask) * 40 + i).save(folder / "images" / f"{i}.png")
        image = Image.fromarray(mask)
        if mode == "P":
            image.putpalette([value for level in range(256) for value in (level, 255 - level, 7)])
        (image if mode in ("P", "L") else image.convert(mode)).save(folder / "masks" / f"{i}.png")
    return folder


def expected(images) -> list[list[list[int]]]:
    """The mask of every picture, by the level of its first pixel."""
    return [classes_of(int(x[0, 0, 0]) - 40).tolist() for x in images.read()]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_class_numbers_that_stay_with_their_pictures(tmp_path: Path, mode: str) -> None:
    data = load_images(str(write(tmp_path, mode=mode)), cache=False)
    assert data.answers is not None
    assert (data.answers.kind, data.classes) == ("pixels", ("0", "1", "2"))
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 1, 2)
    for images in (data.train, data.validation, data.test):
        assert images.labels.tolist() == expected(images)
    assert "a class per pixel" in data.account[0]


def test_splits_are_folders_and_classes_txt_names_the_classes(tmp_path: Path) -> None:
    write(tmp_path / "train", 4)
    write(tmp_path / "test", 2)
    (tmp_path / "classes.txt").write_text("sky\ntree\nroad\ncar\n")
    data = load_images(str(tmp_path), validation=0, cache=False)
    assert (data.classes, len(data.train), len(data.test)) == (("sky", "tree", "road", "car"), 4, 2)


def test_a_table_of_labels_beside_masks_is_what_is_learned(tmp_path: Path) -> None:
    write(tmp_path)
    rows = "".join(f"{i}.png,{'even' if i % 2 == 0 else 'odd'}\n" for i in range(COUNT))
    (tmp_path / "labels.csv").write_text(f"file,label\n{rows}")
    data = load_images(str(tmp_path), cache=False)
    assert (data.answers, data.classes) == (None, ("even", "odd"))


def test_the_cache_gives_the_same_set_in_memory_and_on_disk(tmp_path: Path) -> None:
    folder = write(tmp_path / "data")
    plain = load_images(str(folder), cache=False)
    for room in ("memory", "disk"):
        for _ in range(2):
            found = load_images(str(folder), images_in=room, cache_dir=tmp_path / room)
            assert (found.fingerprint(), found.answers) == (plain.fingerprint(), plain.answers)


def test_masks_are_scaled_as_their_pictures_without_new_classes(tmp_path: Path) -> None:
    data = load_images(str(write(tmp_path)), image_size=SIDE // 2, cache=False)
    assert data.train.labels.shape[1:] == (SIDE // 2, SIDE // 2)
    assert set(data.train.labels.flatten().tolist()) <= {0, 1, 2, NO_CLASS}
    assert bool((data.train.labels[:, :, -1] == 2).all())


@pytest.mark.parametrize("names", ["flip", "crop", "reflect:3", "flip,crop:2,cutout"])
def test_masks_move_with_their_pictures(names: str) -> None:
    draw = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (6, 8, 8), generator=draw, dtype=torch.uint8)
    x = masks.unsqueeze(1) + 1
    shown, moved = augmenter_alike(names)(x, masks, generator("test", 1))
    assert torch.equal(shown, augmenter(names)(x, generator("test", 1)))
    there = shown.squeeze(1) > 0  # neither from outside nor cut out
    assert torch.equal(moved[there], shown.squeeze(1)[there] - 1)
    assert not torch.equal(moved, masks)
    _, alone = augmenter_alike(names)(torch.empty(6, 1, 0, 0, dtype=torch.uint8), masks, generator("test", 1))
    assert torch.equal(alone, moved)


@pytest.mark.parametrize("name", ["resized", "randaugment:9"])
def test_an_augmentation_between_pixels_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="a mask has no class"):
        augmenter_alike(f"flip,{name}")


def test_batches_have_no_target_where_a_mask_has_none(tmp_path: Path) -> None:
    data = load_images(str(write(tmp_path)), cache=False)
    x, y = next(iter(Batches(data.train, batch_size=4, mean=data.mean, std=data.std)))
    assert (x.shape, y.shape, y.dtype) == ((4, 1, SIDE, SIDE), (4, SIDE, SIDE), torch.int64)
    assert y[:, 0, 0].tolist() == [-100] * 4
    assert int(y.max()) == 2


def _missing(folder: Path) -> None:
    (folder / "masks" / "3.png").unlink()


def _small(folder: Path) -> None:
    Image.fromarray(classes_of(3, 8)).save(folder / "masks" / "3.png")


def _beyond(folder: Path) -> None:
    (folder / "classes.txt").write_text("a\nb\n")


def _coloured(folder: Path) -> None:
    Image.fromarray(classes_of(3)).convert("RGB").save(folder / "masks" / "3.png")


def _binary(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 1, 255, 0).astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_missing, r"3\.png has none"),
        (_small, r"3\.png has 8x8 pixels, and its image .*16x16"),
        (_beyond, r"has the class 2, and there are 2 classes"),
        (_coloured, r"3\.png has pixels of mode RGB"),
        (_binary, r"255 means no target"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, damage, said: str) -> None:
    folder = write(tmp_path)
    damage(folder)
    with pytest.raises(InputError, match=said):
        load_images(str(folder), cache=False)


def test_the_blocks_of_a_u_net_carry_its_skips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("unet", classes=3, channels=1, image_size=(12, 10), width=4, depth=2).eval()
    x = torch.randn(2, 1, 12, 10)
    cut = bl.split(model, blocks=5, example=x)
    assert model(x).shape == (2, 3, 12, 10)
    given = x
    for block in cut.blocks:
        given = block.eval()(given)
    assert torch.equal(given, model(x))


def test_a_run_trains_evaluates_and_writes_masks(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    data, run, found = write(tmp_path / "data"), tmp_path / "run", tmp_path / "found"
    how = ["--width", "4", "--blocks", "3", "--epochs", "2", "--batch-size", "4", "--device", "cpu"]
    assert main(["train", "--data", str(data), *how, "--augment", "flip,crop", "--output", str(run)]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["block_test_mean_iou"]) == 3
    assert "mean IoU" in (run / "report.html").read_text()
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert capsys.readouterr().out.count("mean IoU") == 4  # three blocks and the whole
    assert main(["predict", str(run), str(data / "images"), "--output", str(found)]) == 0
    masks = [np.asarray(Image.open(path)) for path in sorted(found.iterdir())]
    assert [mask.shape for mask in masks] == [(SIDE, SIDE)] * COUNT
    assert max(int(mask.max()) for mask in masks) < 3
    assert main(["predict", str(run), str(data / "images")]) != 0
    assert "--output FOLDER" in capsys.readouterr().err
