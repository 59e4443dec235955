"""A loop of your own under Hugging Face accelerate: it moves batches and saves; every block updates itself."""

import tempfile

import torch
from accelerate import Accelerator  # type: ignore[import-not-found]
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import blocklocal as bl


class Optimizers:
    """The blocks' own optimisers and schedules, for `accelerator.save_state`."""

    def __init__(self, network: bl.BlockLocal):
        parts = [part for each in network.learners for part in (each.optimizer, each.schedule)]
        self.parts = [part for part in parts if part is not None]

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state):
        for part, kept in zip(self.parts, state, strict=True):
            part.load_state_dict(kept)


if __name__ == "__main__":
    torch.manual_seed(0)
    accelerator = Accelerator()
    data = bl.load_images("digits")
    x = (data.train.pixels[:].float() / 255 - data.mean[0]) / data.std[0]
    loader = accelerator.prepare(DataLoader(TensorDataset(x, data.train.labels), batch_size=64, shuffle=True))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
    network = bl.BlockLocal(bl.split(model, blocks=2), classes=10, example=torch.zeros(2, 1, 8, 8))
    network.to(accelerator.device)  # and not prepare(network): there is no one gradient to take or to average
    network.configure(bl.sgd(lr=0.05), "one-cycle", 3 * len(loader))
    accelerator.register_for_checkpointing(network, Optimizers(network))
    for network.epoch in range(3):
        for batch in loader:
            network.step(*batch)
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)  # and accelerator.load_state(folder) to go on
    test = bl.Batches(data.test, batch_size=500, mean=data.mean, std=data.std, device=accelerator.device)
    print(f"test accuracy in percent: [{bl.evaluate(network, test).top1:.1f}]")
