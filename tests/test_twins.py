"""Twins. Oracles: the twin run once per sample, autograd (who gets a gradient), activation shapes, hand formulas."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from blocklocal import BlockLocal, Learning, build_model, split
from blocklocal.block.mirror import Resize, mirror_block
from blocklocal.block.targets import Classes
from blocklocal.families import family
from blocklocal.network.assembly import build_learners
from blocklocal.rules.base import target_messages

CLASSES = 3
READING = ("dense", "chain", "mirrored")  # twins that begin at the target; the shared one: test_shared_twin.py
every_twin = pytest.mark.parametrize("twin", READING)
chained_twins = pytest.mark.parametrize("twin", ["chain", "mirrored"])


def image_model(name, width, **options):
    return lambda: build_model(name, classes=CLASSES, channels=1, image_size=(16, 16), width=width, **options)


def conv_net():
    layers = [nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES))


class MeanOverPositions(nn.Module):
    def forward(self, a):
        return a.mean(1)


def sequence_net(pool: bool):
    layers = [nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU()]
    return nn.Sequential(*layers, *([MeanOverPositions()] if pool else []), nn.Linear(6, CLASSES))


MODELS = {
    "resnet18": (image_model("resnet18", 4), (1, 16, 16)),
    "resnet50": (image_model("resnet50", 2), (1, 16, 16)),
    "resnet20": (image_model("resnet20", 4), (1, 16, 16)),
    "vgg8b": (image_model("vgg8b", 2, dropout=0.1), (1, 16, 16)),
    "mlp": (image_model("mlp", 8), (1, 16, 16)),
    "conv": (conv_net, (1, 16, 16)),
    "sequence": (lambda: sequence_net(False), (9, 5)),
    "pooled": (lambda: sequence_net(True), (9, 5)),
}
FEW = ("resnet18", "mlp", "conv", "sequence")


def make(name, blocks=3, **settings):
    """(network, inputs [6, …], targets [6] or [6, T])."""
    build, shape = MODELS[name]
    torch.manual_seed(0)
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))
    net = BlockLocal(split(build(), blocks=blocks), classes=CLASSES, example=x, **{"readout": 0, **settings})
    y = torch.tensor([0, 1, 2, 1, 1, 0])
    return net, x, y.unsqueeze(1).repeat(1, shape[0]) if name == "sequence" else y


def latents(net, x):
    """Every hidden block's forward message [B, P, U, …]."""
    found, a = [], x
    for learner in net.learners[:-1]:
        a = learner(a).detach()
        found.append(learner.local.latent(a, learner.local.features(a)))
    return found


def twin_parameters(net, k):
    return list(net.learners[k].local.twin.parameters())


# --- the start


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("name", ["resnet18", "mlp"])
def test_the_messages_of_a_dense_twin_start_with_values_of_one_over_root_units(name, width):
    torch.manual_seed(0)
    example = torch.zeros(2, 1, 16, 16)
    net = BlockLocal(split(image_model(name, width)(), 2), classes=CLASSES, example=example, readout=0, twin="dense")
    message = target_messages(net.learners, torch.eye(CLASSES))[0]
    torch.testing.assert_close(message.std() * message.shape[2] ** 0.5, torch.tensor(1.0), rtol=0.25, atol=0)


# --- one row per class is enough


@every_twin
@pytest.mark.parametrize("name", FEW)
def test_a_twin_run_per_class_equals_one_run_per_sample_in_loss_and_gradients(name, twin):
    net, x, y = make(name, twin=twin, objective="variational", family="bernoulli", normalise="none")
    per_class = target_messages(net.learners, torch.eye(CLASSES))
    if y.dim() == 1:
        per_sample = target_messages(net.learners, F.one_hot(y, CLASSES).float())
    else:  # all positions of one of these sequences have the same target
        per_sample = target_messages(net.learners, F.one_hot(y[:, 0], CLASSES).float())
    a = x
    for k, learner in enumerate(net.learners[:-1]):
        a = learner(a).detach()
        phi = learner.local.latent(a, a)
        divergence = family("bernoulli").kl(phi + 0.5 * per_sample[k], phi).mean()
        loss = learner.local(a, y, message=per_class[k], wanted={}, mix=0.5).loss
        torch.testing.assert_close(loss, divergence)
        own = twin_parameters(net, k)
        assert loss > 0
        torch.testing.assert_close(torch.autograd.grad(loss, own), torch.autograd.grad(divergence, own))


@every_twin
@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_depend_on_the_other_rows(name, twin):
    net, rows = make(name, twin=twin)[0].double(), torch.eye(CLASSES).double()
    together, alone = target_messages(net.learners, rows), target_messages(net.learners, rows[[1]])
    for all_rows, row in zip(together[:-1], alone[:-1], strict=True):
        torch.testing.assert_close(all_rows[[1]], row)
    assert together[-1] is None  # the output block has the target itself


# --- who learns from what


@every_twin
def test_no_twin_gets_a_gradient_from_another_blocks_message(twin):
    net, _, _ = make("mlp", blocks=4, twin=twin)
    messages = target_messages(net.learners, torch.eye(CLASSES))
    for k in range(3):
        net.zero_grad(set_to_none=True)
        messages[k].square().sum().backward(retain_graph=True)
        for other in range(3):
            reached = [p.grad is not None for p in twin_parameters(net, other)]
            assert all(reached) if other == k else not any(reached)


@chained_twins
def test_a_chained_twin_reads_the_message_of_the_block_behind(twin):
    assert changed_messages(twin) == [True, True, True]


def test_dense_twins_do_not_read_each_other():
    assert changed_messages("dense") == [False, False, True]


def changed_messages(twin):
    """Which of three messages change with the weights of the third twin."""
    net, _, _ = make("mlp", blocks=4, twin=twin)
    before = target_messages(net.learners, torch.eye(CLASSES))[:3]
    with torch.no_grad():
        for parameter in twin_parameters(net, 2):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    after = target_messages(net.learners, torch.eye(CLASSES))[:3]
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


def test_a_chain_of_dense_layers_is_tanh_between_linear_layers():
    net, _, _ = make("mlp", twin="chain")
    first, second = (net.learners[k].local.twin.network for k in (0, 1))
    raw = second.weight.T + second.bias
    expected = [torch.tanh(raw) @ first.weight.T + first.bias, raw]
    for message, own in zip(target_messages(net.learners, torch.eye(CLASSES)), expected, strict=False):
        torch.testing.assert_close(message.squeeze(1), own / 8**0.5)  # flat latents of 8 units: over √8


@pytest.mark.parametrize("width", [16, 256])
def test_the_evidence_of_flat_latents_starts_of_order_one_at_any_width(width):
    torch.manual_seed(0)
    model = build_model("mlp", classes=CLASSES, channels=1, image_size=(16, 16), width=width)
    net = BlockLocal(split(model, blocks=4), classes=CLASSES, twin="dense", family="rectified")
    logits = net.train().block_logits(torch.randn(64, 1, 16, 16))
    for scores in logits[:-1]:
        assert 0.2 < scores.std(1).mean() < 3


# --- shapes


@pytest.mark.parametrize("readout", [0, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_mirrored_messages_have_the_shape_of_the_latents(name, readout):
    net, x, _ = make(name, twin="mirrored", readout=readout)
    messages = target_messages(net.learners, torch.eye(CLASSES))
    for phi, message in zip(latents(net, x), messages, strict=False):
        assert message.shape == (CLASSES, *phi.shape[1:])
        assert torch.isfinite(message).all()


@every_twin
@pytest.mark.parametrize("name", MODELS)
def test_untrained_messages_tell_the_classes_apart(name, twin):
    """A norm over a constant map of one channel would leave nothing of the class."""
    net, _, _ = make(name, twin=twin)
    for message in target_messages(net.learners, torch.eye(CLASSES))[:-1]:
        assert (message - message.mean(0)).norm() > 0.02 * message.norm()


@pytest.mark.parametrize("twin", ["dense", "chain"])
@pytest.mark.parametrize("name", MODELS)
def test_dense_messages_are_shared_by_all_positions(name, twin):
    net, x, _ = make(name, twin=twin, readout=1)
    for phi, message in zip(latents(net, x), target_messages(net.learners, torch.eye(CLASSES)), strict=False):
        assert message.shape == (CLASSES, 1, *phi.shape[2:])


@every_twin
@pytest.mark.parametrize("name", MODELS)
def test_no_twin_holds_a_batchnorm(name, twin):
    net, _, _ = make(name, twin=twin)
    assert not [m for learner in net.learners[:-1] for m in learner.local.twin.modules() if isinstance(m, _BatchNorm)]


@pytest.mark.parametrize("name", MODELS)
def test_making_mirrored_twins_changes_neither_modes_nor_statistics(name):
    build, shape = MODELS[name]
    blocks = split(build(), blocks=3)
    blocks.blocks[1].eval()
    modes = [m.training for block in blocks.blocks for m in block.modules()]
    state = {key: value.clone() for key, value in blocks.model.state_dict().items()}
    learning = Learning(twin="mirrored").decided(stream=False, tokens=False, table=False)
    build_learners(blocks, torch.randn(2, *shape), Classes(CLASSES), learning, seed=0)
    assert [m.training for block in blocks.blocks for m in block.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in blocks.model.state_dict().items())


# --- the reverse of an architecture


def convolutions(module):
    return [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in module.modules() if isinstance(c, nn.Conv2d)]


def test_a_mirrored_chain_holds_its_layers_in_reverse_order():
    block = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 6, 5, 1, 2))
    given = torch.Size([4, 8, 8])
    twin = mirror_block(block, given=given, latent=given, behind=torch.Size([6, 4, 4]))
    assert convolutions(twin) == [(6, 8, 5), (8, 4, 3)]
    norms = [type(m) for m in twin.modules() if isinstance(m, nn.GroupNorm | nn.GELU | nn.ReLU)]
    assert norms == [nn.GELU, nn.GroupNorm, nn.ReLU]
    assert twin(torch.randn(3, 6, 4, 4)).shape == (3, 4, 8, 8)


def test_a_mirrored_residual_unit_is_a_residual_unit_with_its_own_kernels():
    unit = MODELS["resnet50"][0]().stage2[0]  # 1×1, 3×3 of stride 2, 1×1
    given, out = torch.Size([8, 16, 16]), torch.Size([16, 8, 8])
    twin = mirror_block(unit, given=given, latent=given, behind=out)
    assert convolutions(twin) == [(16, 4, 1), (4, 4, 3), (4, 8, 1), (16, 8, 1)]  # the last is the skip
    assert twin(torch.randn(3, *out)).shape == (3, *given)


def test_the_last_mirrored_twin_starts_at_the_target():
    block = nn.Sequential(nn.ReLU(), nn.Linear(8, 5))
    twin = mirror_block(block, given=torch.Size([8]), latent=torch.Size([8]), behind=torch.Size([CLASSES]))
    assert twin(torch.eye(CLASSES)).shape == (CLASSES, 8)
    sizes = [(m.in_features, m.out_features) for m in twin.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(CLASSES, 5), (5, 8)]


@pytest.mark.parametrize(
    ("shape", "wanted"), [((2, 6), (4, 6)), ((4, 6), (4, 6)), ((4, 6), (2, 6))], ids=["shorter", "equal", "longer"]
)
def test_a_block_that_changes_the_length_of_a_sequence_is_mirrored_by_one_layer(shape, wanted):
    class Lengthen(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(shape[0], wanted[0]))

        def forward(self, a):
            return torch.einsum("btd,ts->bsd", a, self.weight)

    given, out = torch.Size(shape), torch.Size(wanted)
    twin = mirror_block(Lengthen(), given=given, latent=given, behind=out)
    assert twin(torch.randn(3, *out)).shape == (3, *given)


def test_resize_repeats_pixels_upwards_and_averages_them_downwards():
    b = torch.arange(4.0).view(1, 1, 2, 2)
    up = Resize([1, 4, 4])(b)
    assert torch.equal(up, b.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(Resize([1, 2, 2])(up), b)


@pytest.mark.parametrize("shape", [(6, 2, 3), (4, 6)])
def test_resize_gives_one_vector_to_all_positions(shape):
    vector = torch.randn(2, 6)
    every = Resize(shape)(vector)
    assert every.shape == (2, *shape)
    flat = every.flatten(2).transpose(1, 2) if len(shape) == 3 else every
    assert all(torch.equal(flat[:, p], vector) for p in range(flat.shape[1]))
