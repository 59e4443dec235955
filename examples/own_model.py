"""Train your own nn.Module block by block, with a loop of your own, and get the plain module back."""

import torch
from torch import nn

import blocklocal as bl


def main() -> list[float | None]:
    torch.manual_seed(0)
    data = bl.load_images("digits")
    train = bl.Batches(data.train, batch_size=64, mean=data.mean, std=data.std, shuffle=True)
    test = bl.Batches(data.test, batch_size=64, mean=data.mean, std=data.std)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU()),
        nn.Linear(128, 10),
    )
    network = bl.BlockLocal(bl.split(model, blocks=3), classes=10, optimizer=bl.adam(lr=1e-3))
    for _ in range(3):
        for x, y in train:
            network.step(x, y)  # every block: forward, its own loss, its own update
    plain = network.to_plain()
    assert list(plain.state_dict()) == list(model.state_dict())
    return list(bl.evaluate(network, test).block_top1)


if __name__ == "__main__":
    print("test accuracy per block, in percent:", main())
