"""What the tests of units, rules and the network share: tiny architectures, one batch each, and ways to look inside."""

import copy
import math

import torch
import torch.nn.functional as F
from model_names import IMAGE_MODELS
from torch import nn

from blocklocal import BlockLocal, build_model, sgd, split
from blocklocal.block.step import StepContext
from blocklocal.rules import RULES
from blocklocal.rules.base import Batch, receive, target_messages

CLASSES = 5
SAMPLES = 4
LOCAL_RULES = [name for name in RULES.names() if RULES.get(name).local]
ALL_RULES = RULES.names()
NO_MOMENTUM = sgd(lr=1e-3, momentum=0.0)  # an update is the gradient times the rate, which suits networks of width 2


class Residual(nn.Module):
    """A skip connection without `units()`: it is cut through a torch.fx trace."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, 2, 1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.norm1(self.conv1(x)) + x)
        return self.head(F.relu(self.conv2(x)).mean((2, 3)))


def sequential():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES),
    )  # fmt: skip


OTHERS = {"sequential": sequential, "traced": Residual}
PER_PIXEL = "unet"  # its targets are of another shape: see test_masks_of_pixels
ARCHITECTURES = [*(name for name in IMAGE_MODELS if name != PER_PIXEL), *OTHERS]


def side(architecture):
    """Pixels of the smallest image that the architecture takes (among powers of 2 from 8 on)."""
    return 16 if architecture == "vgg8b" else 8


def build(architecture, seed=0, **options):
    torch.manual_seed(seed)
    if architecture in OTHERS:
        return OTHERS[architecture]()
    pixels, width = side(architecture), options.pop("width", 6 if architecture == "mlp" else 2)
    return build_model(architecture, classes=CLASSES, channels=1, image_size=(pixels, pixels), width=width, **options)


def data(architecture="mlp", seed=0, samples=SAMPLES):
    """Images and classes; every class index below min(samples, CLASSES) occurs."""
    generator = torch.Generator().manual_seed(100 + seed)
    x = torch.randn(samples, 1, side(architecture), side(architecture), generator=generator)
    return x, torch.randperm(samples, generator=generator) % CLASSES


def network(architecture="mlp", rule="block-local", blocks=3, seed=0, options=None, optimizer=NO_MOMENTUM, **settings):
    model = build(architecture, **(options or {}))
    example = torch.zeros(2, 1, side(architecture), side(architecture))
    bare = {"rule": rule, "readout": 0, **settings}
    return BlockLocal(split(model, blocks), classes=CLASSES, seed=seed, example=example, optimizer=optimizer, **bare)


def batch_of(net, x, y, step=0):
    return Batch(x, y, torch.eye(net.targets.rows), StepContext(net.seed, step))


def pendings(net, x, y, reach_back=False):
    """Every block's step up to its loss: all graphs alive, nothing updated."""
    net.train()
    batch, a, found = batch_of(net, x, y), x, []
    for learner, message in zip(net.learners, target_messages(net.learners, batch.rows), strict=True):
        found.append(receive(learner, a, batch, message, reach_back))
        a = found[-1].sent()
    return found


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(a, b):
    """Bit for bit, with the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def disturb(module, seed=9, scale=0.5):
    """Other weights in place, as if something else had been trained there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale)


def twin_of(net):
    """An independent copy by deepcopy, with its own optimisers."""
    return copy.deepcopy(net)


def finite(results):
    return all(math.isfinite(r.loss.item()) for r in results if r is not None)


def gradients(net, x, y):
    """The gradients that one step gives every learner's parameters; no weight is updated."""
    caught, kept = [{} for _ in net.learners], []

    def catch(learner):
        caught[learner.index] = {n: None if p.grad is None else p.grad.clone() for n, p in learner.named_parameters()}
        learner.zero_grad(set_to_none=True)

    for learner in net.learners:
        kept.append(learner)
        learner.update = lambda learner=learner: catch(learner)
    net.step(x, y)
    for learner in kept:
        del learner.update
    return caught
