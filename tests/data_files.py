"""Small image sets written to disk for the data tests, in the layouts that users have."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from blocklocal.data import Images, ImageSet, load_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")
CLASSES = ("cat", "dog", "owl")


def picture(i: int, size: tuple[int, int] = (6, 5), mode: str = "L"):
    """A picture whose top left pixel is `i`, so that a test can tell which one it has."""
    image = Image.new("L", size, (i * 7 + 3) % 256)
    image.putpixel((0, 0), i)
    return image.convert(mode)


def png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, images: list, labels: list, names=CLASSES, column="image", label="label", type_=None):
    cells = [{"bytes": data, "path": None} for data in images]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(cells, struct), label: pa.array(labels, type_ or pa.int64())})
    if names is not None:
        features = {column: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def parquet_set(root: Path, train: int = 12, test: int = 6, **options) -> Path:
    """Labels run 0, 1, 2, 0, …; the first pixel of training image i is i, of test image i it is 100 + i."""
    write_parquet(
        root / "train-00000-of-00001.parquet", [png(picture(i)) for i in range(train)], labels(train), **options
    )
    test_images = [png(picture(100 + i)) for i in range(test)]
    write_parquet(root / "test-00000-of-00001.parquet", test_images, labels(test), **options)
    return root


def labels(count: int) -> list[int]:
    return [i % len(CLASSES) for i in range(count)]


def replace_train(root: Path, images: list, values: list, **options) -> Path:
    write_parquet(root / "train-00000-of-00001.parquet", images, values, **options)
    return root


def folder_set(root: Path, per_class: int, splits: tuple[str, ...] = ("train", "test")) -> Path:
    for split in splits:
        for c, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                picture(c * per_class + i).save(root / split / name / f"{i}.png")
    return root


def first_pixels(images: Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def all_train(root: Path | str, **options) -> ImageSet:
    return load_images(str(root), validation=0, **options)


def class_folders(root: Path, classes: tuple[str, ...] = CLASSES, count: int = 4, start: int = 0) -> Path:
    """`count` pictures per class folder; their first pixels run from `start` on."""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(start + c * count + i).save(root / name / f"{i}.png")
    return root


def hub_split(first: int, values: list, names=CLASSES, label: str = "label"):
    """One split of a hub set: the first pixel of image i is `first` + i. names None: labels are plain numbers."""
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({"img": datasets.Image(), label: kind})
    cells = [{"bytes": png(picture(first + i)), "path": None} for i in range(len(values))]
    return datasets.Dataset.from_dict({"img": cells, label: values}, features)


def serve_hub(monkeypatch: pytest.MonkeyPatch, **splits) -> list:
    """Make the hub give these splits for any name; returns a list of the arguments it is asked with."""
    datasets, asked = pytest.importorskip("datasets"), []
    monkeypatch.setattr(datasets, "load_dataset", lambda *name: asked.append(name) or datasets.DatasetDict(splits))
    return asked
