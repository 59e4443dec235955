"""Train a Hugging Face ViT block by block on a folder of images with one folder per class.

python examples/vit_images.py FOLDER
"""

import sys

from transformers import ViTConfig, ViTForImageClassification

import blocklocal as bl

SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}


def main(folder: str) -> list[float | None]:
    data = bl.load_images(folder, image_size=32)
    classes = len(data.classes)
    config = ViTConfig.from_dict(SIZE | {"image_size": 32, "num_channels": data.channels, "patch_size": 8})
    config.num_labels = classes
    vit = ViTForImageClassification(config)  # with published weights: .from_pretrained(NAME, num_labels=classes)
    train = bl.Batches(data.train, batch_size=16, mean=data.mean, std=data.std, augment="flip", shuffle=True)
    test = bl.Batches(data.test, batch_size=100, mean=data.mean, std=data.std)
    network = bl.BlockLocal(bl.split(vit, blocks=4), classes=classes)
    bl.Trainer(network, optimizer=bl.adamw(lr=1e-3), schedule="warmup-cosine", epochs=4).fit(train)
    return bl.evaluate(network, test).block_top1


if __name__ == "__main__":
    print("test accuracy per block, in percent:", main(sys.argv[1]))
