"""A network of blocks inside a Lightning module: manual optimisation, because every block updates itself."""

import lightning  # type: ignore[import-not-found]
import torch
from torch import nn

import blocklocal as bl


class Blocks(lightning.LightningModule):
    def __init__(self, network: bl.BlockLocal):
        super().__init__()
        self.automatic_optimization = False  # Lightning takes no step and no backward pass of its own
        self.network = network

    def training_step(self, batch, index):
        results = self.network.step(*batch)
        self.log_dict({f"loss/block-{k + 1}": each.loss for k, each in enumerate(results) if each is not None})

    def on_train_epoch_start(self):
        self.network.epoch = self.current_epoch

    def validation_step(self, batch, index):
        x, y = batch
        self.log("accuracy", 100 * (self.network.predict(x).label == y).float().mean(), batch_size=len(y))

    def configure_optimizers(self):
        return None  # the blocks have their own


if __name__ == "__main__":
    torch.manual_seed(0)
    data = bl.load_images("digits", validation=300)
    train = bl.Batches(data.train, batch_size=64, mean=data.mean, std=data.std, shuffle=True)
    validation = bl.Batches(data.validation, batch_size=300, mean=data.mean, std=data.std)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
    network = bl.BlockLocal(bl.split(model, blocks=2), classes=10, example=torch.zeros(2, 1, 8, 8))
    network.configure(bl.sgd(lr=0.05), "one-cycle", 3 * len(train))
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Blocks(network), train, validation)
    print(f"validation accuracy in percent: [{trainer.callback_metrics['accuracy'].item():.1f}]")
