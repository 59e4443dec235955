"""Train on your own images: a folder with one folder per class. Without a folder it draws a small one.

python examples/own_images.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy
from PIL import Image

import blocklocal as bl


def draw_images(folder: Path) -> Path:
    """Dark pictures of one class and bright ones of the other, for training and test."""
    random = numpy.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for name, brightness in (("night", 40), ("day", 170)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(brightness, brightness + 60, (16, 16, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def main(folder: Path) -> list[float | None]:
    data = bl.load_images(str(folder), image_size=16)
    print(*data.account, sep="\n")
    train = bl.Batches(data.train, batch_size=8, mean=data.mean, std=data.std, shuffle=True)
    test = bl.Batches(data.test, batch_size=8, mean=data.mean, std=data.std)
    classes = len(data.classes)
    _, channels, height, width = next(iter(test))[0].shape
    model = bl.build_model("mlp", classes=classes, channels=channels, image_size=(height, width), width=32)
    network = bl.BlockLocal(bl.split(model, blocks=2), classes=classes)
    bl.Trainer(network, optimizer=bl.sgd(lr=0.05), epochs=4).fit(train)
    return list(bl.evaluate(network, test).block_top1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as drawn:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else draw_images(Path(drawn))
        print("test accuracy per block, in percent:", main(folder))
