"""Cutting modules of any form, by a torch.fx trace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from splitting_helpers import assert_equals_forward, batch, compose
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal.splitting import split

torch.set_num_threads(1)


class Residual(nn.Module):
    """As in torchvision: one in-place ReLU, after the sum."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class TorchvisionLike(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Residual(4, 4, 1), Residual(4, 4, 1))
        self.layer2 = nn.Sequential(Residual(4, 8, 2), Residual(8, 8, 1))
        self.layer3 = nn.Sequential(Residual(8, 8, 2), Residual(8, 8, 1))
        self.layer4 = nn.Sequential(Residual(8, 8, 2), Residual(8, 8, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(8, 5)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class TestTraced:
    def test_torchvision_resnet_is_cut_at_its_stages(self):
        model = TorchvisionLike()
        parts = split(model, at=["layer2", "layer3", "layer4"])
        assert [name.split("–")[0] for name in parts.names] == [
            "conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"]  # fmt: skip
        assert parts.after_activation == [True] * 3  # its stages end with the ReLU
        assert_equals_forward(parts, model, batch())

    @pytest.mark.parametrize("balance", ["count", "flops", "bytes"])
    def test_by_number_it_is_cut_before_the_relu(self, balance):
        model = TorchvisionLike()
        parts = split(model, 4, balance=balance, example=batch())
        assert parts.after_activation == [False] * 3
        assert_equals_forward(parts, model, batch())
        messages = [batch()]
        for block in parts.blocks:
            kept = messages[-1].clone()
            messages.append(block(messages[-1]))
            assert torch.equal(messages[-2], kept)
        assert all((a < 0).any() for a in messages[1:])

    def test_blocks_share_the_users_weights_under_their_names(self):
        model = TorchvisionLike()
        parts = split(model, at=["layer3"])
        merged = {name: p for block in parts.blocks for name, p in block.named_parameters()}
        assert {name: id(p) for name, p in merged.items()} == {name: id(p) for name, p in model.named_parameters()}

    def test_tracing_leaves_the_module_as_it_was(self):
        model = TorchvisionLike()
        model.layer1.eval()
        modes, names = [m.training for m in model.modules()], set(vars(model))
        state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        split(model, 3, balance="bytes", example=batch())
        assert [m.training for m in model.modules()] == modes
        assert set(vars(model)) == names
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))

    def test_blocks_can_be_copied_and_trained(self):
        parts = split(TorchvisionLike(), 2)
        clones = copy.deepcopy(parts.blocks)
        compose(clones, batch()).sum().backward()
        assert all(p.grad is not None for block in clones for p in block.parameters())

    @pytest.mark.parametrize("inner", ["layer1.0.conv2", "layer2.1.bn2"])
    def test_a_cut_through_a_skip_is_refused_naming_what_crosses(self, inner):
        with pytest.raises(InputError, match=rf"'{inner}'.*skip connection.*for example at"):
            split(TorchvisionLike(), at=[inner])

    def test_a_unet_has_no_cut_inside_its_skips(self):
        class UNet(nn.Module):
            def __init__(self):
                super().__init__()
                self.down, self.middle = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
                self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(5, 1, 1)

            def forward(self, x):
                h = F.relu(self.down(x))
                h = F.relu(self.middle(h))
                return self.out(torch.cat([self.up(h), x], 1))

        with pytest.raises(InputError, match=r"'middle'.*2 cross.*the network's input"):
            split(UNet(), at=["middle"])
        with pytest.raises(InputError, match=r"4 blocks.*2 pieces"):
            split(UNet(), 4)

    @pytest.mark.parametrize("start", ["train", "eval"])
    def test_functional_dropout_follows_the_mode_of_the_block(self, start):
        class Dropped(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.p = nn.Linear(6, 6), nn.Linear(6, 2), 0.5

            def forward(self, x, mask=None, scale=2):
                h = F.dropout(self.a(x) * scale, self.p, self.training)
                if mask is not None:
                    h = h * mask
                return self.b(F.dropout(F.relu(h), p=0.3 if self.training else 0.0))

        model = getattr(Dropped(), start)()
        parts = split(model, at=["b"])
        assert all(block.training == (start == "train") for block in parts.blocks)
        assert_equals_forward(parts, model, torch.randn(5, 6))

    def test_parameters_used_directly_go_to_the_block_that_reads_them(self):
        class Direct(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.scale = nn.Linear(3, 3), nn.Linear(3, 2), nn.Parameter(torch.randn(3))
                self.register_buffer("shift", torch.randn(3))

            def forward(self, x):
                n = x.size(0)
                h = F.relu(self.a(x.view(n, -1)) * self.scale + self.shift)
                return self.b(h) + torch.tensor([1.0, 2.0])

        model = Direct()
        parts = split(model, at=["b"])
        assert "scale" in dict(parts.blocks[0].named_parameters())
        assert_equals_forward(parts, model, torch.randn(4, 3))

    def test_control_flow_on_data_is_refused_with_the_way_out(self):
        class Branch(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(2, 2)

            def forward(self, x):
                return self.a(x) if x.sum() > 0 else x

        with pytest.raises(InputError, match=r"Branch cannot be traced.*units\(\)"):
            split(Branch(), 2)

    @pytest.mark.parametrize("kind", ["operation", "random", "tuple", "two inputs"])
    def test_what_a_trace_would_freeze_or_lose_is_refused(self, kind):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

            def forward(self, x):
                h = self.a(x)
                if kind == "operation" and self.training:
                    h = h * 2
                if kind == "random":
                    h = h + torch.randn(2)
                return (self.b(h), h) if kind == "tuple" else self.b(h)

        class Two(Odd):
            def forward(self, x, y):
                return self.b(self.a(x) + y)

        messages = {"operation": "training", "random": "differs", "tuple": "one tensor", "two inputs": "needs.*y"}
        with pytest.raises(InputError, match=messages[kind]):
            split(Two() if kind == "two inputs" else Odd(), at=["b"])

    def test_a_module_that_is_never_called_is_refused(self):
        model = TorchvisionLike()
        model.spare = nn.Linear(2, 2)
        with pytest.raises(InputError, match="never calls"):
            split(model, at=["spare"])

    def test_a_transformer_is_cut_after_its_residual_sums(self):
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm1, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
                self.norm2, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

            def forward(self, x):
                q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
                rate = 0.2 if self.training else 0.0
                x = x + self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=rate))
                return x + self.narrow(F.gelu(self.wide(self.norm2(x))))

        class Transformer(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.place = nn.Embedding(10, 8), nn.Parameter(torch.randn(5, 8))
                self.layers, self.head = nn.ModuleList(Layer() for _ in range(3)), nn.Linear(8, 10)

            def forward(self, x):
                h = self.embedding(x) + self.place
                for layer in self.layers:
                    h = layer(h)
                return self.head(h)

        model, tokens = Transformer(), torch.randint(0, 10, (3, 5))
        for parts in (split(model, at=["layers.1", "layers.2"]), split(model, 3, balance="flops", example=tokens)):
            assert_equals_forward(parts, model, tokens)
        with pytest.raises(InputError, match=r"'layers.1.out'.*the result of add in 'layers.0'"):
            split(model, at=["layers.1.out"])
