"""Oracle: pixels known beforehand. Training and prediction decode alike; nothing turns black without a word."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import Image, all_train, folder_set, picture, png, replace_train

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import MAX_PIXELS
from blocklocal.data.picture import BadImage, open_picture, resize_and_crop
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.predict import open_pixels

PngInfo = pytest.importorskip("PIL.PngImagePlugin").PngInfo
XMP = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><tiff:Orientation>6</tiff:Orientation></rdf:Description>'


pytestmark = pytest.mark.usefixtures("empty_cache")


def same_images(root: Path, image: bytes) -> Path:
    """A set of three classes whose images, for training and test, all are this one."""
    replace_train(root, [image] * 3, [0, 1, 2])
    (root / "test.parquet").write_bytes((root / "train-00000-of-00001.parquet").read_bytes())
    return root


def stored():
    """A picture on its side: to be shown upright, it is turned clockwise by a quarter."""
    image = Image.new("RGB", (8, 6))
    for x in range(8):
        for y in range(6):
            image.putpixel((x, y), (x * 30, y * 40, 7))
    return image


def upright() -> np.ndarray:
    return np.rot90(np.array(stored()), k=-1)


def orientation():
    exif = Image.Exif()
    exif[274] = 6
    return exif


def profile(content: bytes) -> str:
    """As ImageMagick writes it: a name, the length, lines of hex digits."""
    return f"\nexif\n{len(content):8d}\n{content.hex()}\n"


def text(name: str, value: str, zipped: bool = False):
    info = PngInfo()
    info.add_text(name, value, zip=True) if zipped else info.add_itxt(name, value)
    return {"pnginfo": info}


def turned_files() -> dict[str, bytes]:
    raw = b"Exif\0\0" + orientation().tobytes().removeprefix(b"Exif\0\0")
    options = {
        "exif.png": {"exif": orientation()},
        "exif.webp": {"exif": orientation(), "lossless": True},
        "exif.tif": {"exif": orientation()},
        "xmp.png": text("XML:com.adobe.xmp", XMP),
        "xmp.webp": {"xmp": XMP.encode(), "lossless": True},
        "profile.png": text("Raw profile type exif", profile(raw), zipped=True),
        "profile-app1.png": text("Raw profile type APP1", profile(raw), zipped=True),
        "profile-xmp.png": text("Raw profile type xmp", profile(XMP.encode()), zipped=True),
    }
    files = {}
    for name, kept in options.items():
        buffer = io.BytesIO()
        kind = {"png": "PNG", "webp": "WEBP", "tif": "TIFF"}[name.rpartition(".")[2]]
        stored().save(buffer, kind, **kept)
        files[name] = buffer.getvalue()
    return files


TURNED = turned_files()


@pytest.mark.parametrize("name", TURNED)
def test_the_orientation_is_followed_wherever_it_is_kept_in_training_and_prediction_alike(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(TURNED[name])
    trained = all_train(same_images(tmp_path / "set", TURNED[name])).train.pixels[0]
    facts = DatasetInfo(("a", "b"), 3, 8, 6, (0.0,) * 3, (1.0,) * 3)
    assert np.array_equal(trained.permute(1, 2, 0).numpy(), upright())
    assert torch.equal(open_pixels(path, facts, resize=False), trained)


def test_an_orientation_that_cannot_be_read_leaves_the_image_as_stored_and_is_said(tmp_path):
    buffer = io.BytesIO()
    stored().save(buffer, "PNG", **text("Raw profile type exif", "\nexif\n 4\nno hex at all\n"))
    opened = open_picture(buffer.getvalue())
    assert np.array_equal(np.array(opened.image), np.array(stored()))
    root = same_images(tmp_path / "set", buffer.getvalue())
    assert "orientation unreadable, shown as stored (3 images)" in all_train(root).account[0]


# --- modes -----------------------------------------------------------------------------------------------------------


def encoded(array: np.ndarray, kind: str = "TIFF") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


RAMP = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_upper_eight(kind):
    assert np.array_equal(np.array(open_picture(encoded((RAMP * 257).astype("uint16"), kind)).image), RAMP)


def test_big_endian_sixteen_bits_keep_their_upper_eight():
    big = Image.frombytes("I;16B", (16, 16), (RAMP * 257).astype(">u2").tobytes())
    buffer = io.BytesIO()
    big.save(buffer, "TIFF")
    assert np.array_equal(np.array(open_picture(buffer.getvalue()).image), RAMP)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (RAMP.astype("int32"), "32-bit pixels have no fixed range"),
        ((RAMP * 1000).astype("int32"), "32-bit pixels have no fixed range"),
        (RAMP.astype("float32"), "floating-point pixels have no fixed range"),
        (RAMP.astype("uint16"), "would be black"),
    ],
    ids=["32 bits", "32 bits, larger", "float", "8 bits in 16"],
)
def test_values_without_a_range_are_refused_with_the_reason(array, reason, tmp_path):
    with pytest.raises(BadImage, match=reason):
        open_picture(encoded(array))
    root = folder_set(tmp_path / "set", 2)
    (root / "train" / "cat" / "x.tif").write_bytes(encoded(array))
    with pytest.raises(InputError, match=f"x.tif: .*{reason}.*--skip-bad"):
        all_train(root)


def test_a_black_image_of_sixteen_bits_stays_black():
    assert not np.array(open_picture(encoded(np.zeros((4, 4), "uint16"))).image).any()


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("YCbCr", (4, 4), (76, 85, 255)), (254, 0, 0)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGBX", (4, 4), (255, 0, 0, 9)), (255, 0, 0)),
    ],
    ids=["YCbCr", "CMYK", "RGBX"],
)
def test_other_colour_spaces_become_rgb(image, pixel):
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    assert open_picture(buffer.getvalue()).image.getpixel((1, 1)) == pytest.approx(pixel, abs=2)


def transparent_palette() -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "at", "pixel"),
    [(transparent_palette(), (0, 0), (255, 255, 255)), (transparent_palette(), (1, 1), (0, 0, 255))],
    ids=["clear", "opaque"],
)
def test_transparent_colours_of_a_palette_are_laid_on_white(data, at, pixel):
    assert open_picture(data).image.getpixel(at) == pixel


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(kind, tmp_path):
    first, second = Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=[second])
    data = all_train(same_images(tmp_path / "set", buffer.getvalue()))
    assert data.train.pixels.unique().tolist() == [10]
    assert "first of several frames taken (3 images)" in data.account[0]


# --- what is never opened, or never scaled ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (9500, 9500)).save(buffer, "PNG")
    assert MAX_PIXELS < 9500**2
    with pytest.raises(BadImage, match=r"9500x9500 pixels, more than 89,478,485"):
        open_picture(buffer.getvalue())


def test_a_long_picture_that_scaling_would_make_huge_is_refused(tmp_path):
    root = folder_set(tmp_path / "set", 2)
    Image.new("L", (60_000, 1)).save(root / "train" / "cat" / "long.png")
    with pytest.raises(InputError, match=r"long.png: 60000x1 pixels are scaled to 13440000x224"):
        all_train(root, image_size=224)
    with pytest.raises(BadImage, match="scaled"):
        resize_and_crop(Image.new("L", (60_000, 1)), (224, 224))


def test_a_postscript_program_is_not_run():
    with pytest.raises(BadImage, match="PostScript"):
        open_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")


def make_pipe(path) -> None:
    os.mkfifo(path)


def make_socket(path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may be no longer than a hundred characters
        try:
            door.bind(path.name)
        finally:
            os.chdir(here)


def make_link_to_itself(path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_pipe, "a named pipe"),
        (make_socket, "a socket"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (make_link_to_itself, "symbolic links"),
    ],
    ids=["pipe", "socket", "folder", "device", "link to itself"],
)
def test_what_is_no_regular_file_is_refused_unopened(make, reason, tmp_path):
    make(tmp_path / "x.png")
    facts = DatasetInfo(("a", "b"), 1, 5, 6, (0.0,), (1.0,))
    with pytest.raises(InputError, match=f"x.png.*{reason}"):
        open_pixels(tmp_path / "x.png", facts, resize=False)


@pytest.mark.timeout(30)
def test_a_pipe_and_a_device_among_the_images_are_left_out_and_said(tmp_path):
    root = folder_set(tmp_path / "set", 2)
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    (root / "train" / "dog" / "zero.png").symlink_to("/dev/zero")
    data = all_train(root)
    assert len(data.train) == 6
    assert "2 pipes, sockets or devices (pipe.png, …)" in data.account[0]


# --- prediction ------------------------------------------------------------------------------------------------------


def test_prediction_scales_to_a_size_that_is_no_square(tmp_path):
    picture(3, (12, 12)).save(tmp_path / "x.png")
    facts = DatasetInfo(("a", "b"), 1, 4, 8, (0.0,), (1.0,))
    assert open_pixels(tmp_path / "x.png", facts, resize=True).shape == (1, 4, 8)


def test_a_truncated_file_names_the_reason_alone():
    with pytest.raises(BadImage, match="no image, or of a format"):
        open_picture(b"not an image")
    with pytest.raises(BadImage, match="OSError"):
        open_picture(png(Image.effect_noise((64, 64), 90))[:-600])


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what is wrong with a file
def test_damaged_files_of_every_format_end_in_an_image_or_in_a_reason():
    whole = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        buffer = io.BytesIO()
        stored().save(buffer, kind, **({"exif": orientation()} if kind in ("PNG", "JPEG", "WEBP") else {}))
        whole.append(buffer.getvalue())
    draw, refused = np.random.default_rng(0), 0
    for i in range(400):
        data = bytearray(whole[i % len(whole)])
        for place in draw.integers(len(data), size=draw.choice([1, 5, 30])):
            data[place] = draw.integers(256)
        try:
            assert open_picture(bytes(data)).image.mode in ("L", "RGB")
        except BadImage:
            refused += 1
    assert 50 < refused < 350
