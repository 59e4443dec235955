"""Contexts inside forward (no_grad, autocast) and what else decides which weights a network trains.

Oracle: the network itself, its values and the gradients of its weights.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from parallel_helpers import command, finished, started
from run_helpers import flags
from splitting_helpers import ThreeLayers, assert_equals_forward, assert_trains_the_same, compose, rows
from torch import nn
from torch.utils.checkpoint import checkpoint

from blocklocal import RULES, BlockLocal, InputError, sgd, split

torch.set_num_threads(1)


class NoGrad(ThreeLayers):
    def forward(self, x):
        with torch.no_grad():
            h = self.a(x) * 2
        return self.c(torch.relu(self.b(torch.relu(h))))


class Decorated(ThreeLayers):
    @torch.no_grad()
    def features(self, x):
        return self.a(x)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.features(x)))))


class Inference(ThreeLayers):
    def forward(self, x):
        with torch.inference_mode():
            h = self.a(x)
        return self.c(torch.relu(self.b(torch.relu(h.clone()))))


class SetGrad(ThreeLayers):
    train_first = False

    def forward(self, x):
        with torch.set_grad_enabled(self.train_first):
            h = self.a(x)
        return self.c(torch.relu(self.b(torch.relu(h))))


class Detached(ThreeLayers):
    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)).detach())))


class DetachedWeight(ThreeLayers):
    def forward(self, x):
        h = F.linear(x, self.a.weight.detach(), self.a.bias.data)
        return self.c(torch.relu(self.b(torch.relu(h))))


class Checkpointed(ThreeLayers):
    def forward(self, x):
        h = checkpoint(self.hidden, torch.relu(self.a(x)), use_reentrant=False)
        return self.c(torch.relu(h))

    def hidden(self, h):
        return self.b(h)


class Backbone(nn.Module):
    """A pretrained part that keeps its weights from training itself."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    @torch.no_grad()
    def forward(self, x):
        return self.layers(x)


class WithBackbone(ThreeLayers):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x):
        return super().forward(self.backbone(x))


KINDS = [NoGrad, Decorated, Inference, SetGrad, Detached, DetachedWeight, Checkpointed, WithBackbone]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [["b"], ["b", "c"]])
def test_blocks_give_the_values_and_train_the_weights_of_the_network(kind, at):
    model = kind()
    parts = split(model, at=at, example=rows())
    assert_equals_forward(parts, model, rows())
    assert_trains_the_same(parts, model, rows())


UNTRAINED = {NoGrad: "a.", Decorated: "a.", Inference: "a.", SetGrad: "a.", Detached: "a.", WithBackbone: "backbone."}


@pytest.mark.parametrize("rule", RULES.names())
@pytest.mark.parametrize("scope", ["local", "neighbour"])
def test_weights_used_under_no_grad_stay_whatever_the_rule(rule, scope):
    for kind in (NoGrad, WithBackbone):
        model = kind()
        before = copy.deepcopy(model.state_dict())
        network = BlockLocal(
            split(model, at=["b"]), classes=3, rule=rule, scope=scope, readout=0, example=rows(), optimizer=sgd(lr=0.1)
        )
        for _ in range(2):
            network.step(rows(), torch.tensor([0, 1, 2, 0]))
        moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert not [name for name in moved if name.startswith(UNTRAINED[kind])]
        assert any(name.startswith("c.") for name in moved)


@pytest.mark.parametrize("rule", RULES.names())
def test_weights_that_require_no_gradient_stay_whatever_the_rule(rule):
    model = ThreeLayers()
    model.a.requires_grad_(False)
    model.b.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    network = BlockLocal(split(model, blocks=2), classes=3, rule=rule, readout=0, example=rows(), optimizer=sgd(lr=0.1))
    network.step(rows(), torch.tensor([0, 1, 2, 0]))
    for name in ("a.weight", "a.bias", "b.bias"):
        assert torch.equal(model.state_dict()[name], before[name])


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_in_forward_holds_in_the_block_whatever_surrounds_it(enabled):
    class Cast(ThreeLayers):
        def forward(self, x):
            h = torch.relu(self.a(x))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                h = self.b(h.float())
            return self.c(torch.relu(h.float()))

    model = Cast()
    parts = split(model, at=["c"])
    for around in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around), torch.no_grad():
            assert torch.equal(compose(parts.blocks, rows()), model(rows()))
            hidden = torch.relu(model.a(rows())).float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled), torch.no_grad():
            wanted = torch.relu(model.b(hidden).float())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around), torch.no_grad():
            assert torch.equal(parts.blocks[0](rows()), wanted)


def test_autocast_set_inside_a_module_holds_for_the_device_of_the_run():
    class Rotary(nn.Module):
        """As in language models: the type is asked for, and a trace could only answer "cpu"."""

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            kind = x.device.type if isinstance(x.device.type, str) else "cuda"
            with torch.autocast(kind, enabled=False):
                return self.inner(x.float())

    class Net(ThreeLayers):
        def __init__(self):
            super().__init__()
            self.part = Rotary()

        def forward(self, x):
            return self.c(torch.relu(self.part(torch.relu(self.a(x)))))

    model = Net()
    parts = split(model, at=["part", "c"])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.equal(compose(parts.blocks, rows()), model(rows()))


def test_autocast_around_a_module_does_not_make_it_one_piece():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = ThreeLayers()

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x).float()

    model = Net()
    parts = split(model, at=["inner.b", "inner.c"])
    with torch.no_grad():
        assert torch.equal(compose(parts.blocks, rows()), model(rows()))


def test_a_split_made_without_gradients_trains():
    model = ThreeLayers()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        parts = split(model, at=["b"])
    assert_trains_the_same(parts, model, rows())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda blocks: pickle.loads(pickle.dumps(blocks))])
def test_a_copied_block_keeps_its_contexts(duplicate):
    model = NoGrad()
    blocks = duplicate(split(model, at=["b"]).blocks)
    output = compose(blocks, rows())
    assert torch.equal(output, model(rows()))
    output.sum().backward()
    assert {name for block in blocks for name, p in block.named_parameters() if p.grad is None} == {
        "a.weight",
        "a.bias",
    }


def test_a_context_that_raises_leaves_gradients_on():
    block = split(NoGrad(), at=["b"]).blocks[0]
    with pytest.raises(RuntimeError):
        block(torch.zeros(2, 7))
    assert torch.is_grad_enabled()


def test_a_block_knows_that_some_of_its_weights_get_no_gradient():
    """Replicas must know it, or they wait for gradients that never come."""
    for kind, idle in ((ThreeLayers, [False, False]), (NoGrad, [True, False]), (WithBackbone, [True, False])):
        network = BlockLocal(split(kind(), at=["c"]), classes=3, example=rows())
        assert [learner.idle for learner in network.learners] == idle


@pytest.mark.slow
def test_replicas_train_a_network_with_weights_under_no_grad(tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    settings = flags(model=f"{tmp_path}/net.py:net", data="digits", blocks=1, width=8)
    run = command("train", *settings, "--quiet", "--processes", 2, "--replicas", 2, "--output", tmp_path / "run")
    with started([run]) as running:
        ((status, _, err),) = finished(running)
    assert status == 0, err


FILE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes, channels, image_size, width):
        super().__init__()
        self.first, self.second = nn.Linear(64, width), nn.Linear(width, classes)
    def forward(self, x):
        with torch.no_grad():
            h = self.first(x.flatten(1))
        return self.second(torch.relu(h))
net = Net
"""


class Sign(torch.autograd.Function):
    """The sign, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


sign = Sign.apply  # as users bind it, long before anything is traced


class Binary(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return sign(self.inner(x))


class Reentrant(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", [Binary, Reentrant])
def test_an_autograd_function_in_a_module_keeps_its_own_gradient(kind):
    class Net(ThreeLayers):
        def __init__(self):
            super().__init__()
            self.own = kind()

        def forward(self, x):
            return self.c(torch.relu(self.own(torch.relu(self.b(torch.relu(self.a(x)))))))

    model = Net()
    parts = split(model, at=["b", "c"])
    assert_equals_forward(parts, model, rows())
    assert_trains_the_same(parts, model, rows())


def test_what_a_trace_would_lose_of_the_network_itself_is_refused_with_the_way_out():
    class Signed(ThreeLayers):
        def forward(self, x):
            return self.c(sign(self.a(x)))

    class PastTheTrace(ThreeLayers):
        def forward(self, x):
            return self.c(torch.relu(F.linear(x, next(self.a.parameters()) * 2)))

    class Writes(ThreeLayers):
        def forward(self, x):
            for p in self.a.parameters():
                p.data.clamp_(-0.1, 0.1)
            return super().forward(x)

    class Freezes(ThreeLayers):
        def forward(self, x):
            self.a.eval()
            return super().forward(x)

    class GradInTraining(ThreeLayers):
        def forward(self, x):
            with torch.set_grad_enabled(not self.training):
                h = self.a(x)
            return self.c(h)

    refused = {
        Signed: "autograd function Sign",
        PastTheTrace: "computes with weights",
        Writes: r"changes 'a\.",
        Freezes: "switches 'a' between training and evaluation",
        GradInTraining: "in training than in evaluation",
    }
    for kind, reason in refused.items():
        with pytest.raises(InputError, match=f"{reason}.*a module of its own"):
            split(kind(), at=["c"])
        assert all(torch.equal(p, q) for p, q in zip(kind().parameters(), ThreeLayers().parameters(), strict=True))
