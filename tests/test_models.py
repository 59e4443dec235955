"""Every registered model: shapes, units, counts, and the residual networks against an independent formulation."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from model_names import IMAGE_MODELS

from blocklocal._common.errors import InputError
from blocklocal._common.message import hidden_of, map_message
from blocklocal.models import UnitModel, build_model, check_input

torch.set_num_threads(1)
SMALLEST = {"vgg8b": 16}


def small(name, channels=1, side=None, **options):
    side = side or SMALLEST.get(name, 8)
    torch.manual_seed(0)
    return build_model(name, classes=5, channels=channels, image_size=(side, side), width=4, **options)


def answers(name, size, classes=5):
    """The shape of what the model says of two images of this size."""
    return (2, classes, *size) if name == "unet" else (2, classes)


def prepare_for_device(model, x):
    """Give BatchNorm statistics and weights that hide no mistake: a few training passes and random affine parts."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    for _ in range(3):
        model(x)
    return model.eval()


@pytest.mark.parametrize("name", IMAGE_MODELS)
class TestEveryModel:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_maps_images_to_logits(self, name, channels):
        model = small(name, channels)
        x = torch.randn(2, *model.input_shape)
        check_input(model, x)
        assert model.eval()(x).shape == answers(name, x.shape[2:])

    def test_units_in_order_equal_forward(self, name):
        model = small(name)
        x = torch.randn(4, *model.input_shape)
        prepare_for_device(model, x)
        assert isinstance(model, UnitModel)
        a = x
        for _, unit in model.units():
            a = unit(a)
        assert torch.equal(a, model(x))

    def test_units_hold_every_parameter_once(self, name):
        model = small(name)
        held = [id(p) for _, unit in model.units() for p in unit.parameters()]
        assert sorted(held) == sorted(id(p) for p in model.parameters())

    def test_what_passes_between_units_is_before_the_relu(self, name):
        model = small(name)
        a = torch.randn(4, *model.input_shape)
        units = model.units()
        for (_, unit), (_, following) in pairwise(units):
            a = unit(a)
            assert (hidden_of(a) < 0).any()
            begun, expected = (hidden_of(following.eval()(given)) for given in (a, map_message(torch.relu, a)))
            assert torch.allclose(begun, expected, atol=1e-5)  # it begins with the ReLU
            following.train()

    def test_every_parameter_gets_a_gradient(self, name):
        model = small(name)
        x = torch.randn(8, *model.input_shape)
        output = model(x)
        (output * torch.randn(output.shape)).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())

    def test_takes_non_square_images(self, name):
        model = build_model(name, classes=3, channels=2, image_size=(32, 20), width=2).eval()
        assert model(torch.randn(2, 2, 32, 20)).shape == answers(name, (32, 20), classes=3)

    def test_state_dict_loads_into_a_fresh_model(self, name):
        model, other = small(name), small(name)
        other.load_state_dict(model.state_dict())
        assert all("unit" not in key and "None" not in key for key in model.state_dict())

    def test_unknown_option_is_named(self, name):
        with pytest.raises(InputError, match="unknown option"):
            small(name, wdith=3)


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_resnets_have_the_published_number_of_parameters(name, count):
    with torch.device("meta"):
        model = build_model(name, classes=1000, channels=3, image_size=(224, 224), stem="large")
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85)])
def test_cifar_resnets_have_the_size_in_the_paper(name, millions):  # He et al., arXiv 1512.03385, table 6
    with torch.device("meta"):
        model = build_model(name, classes=10, channels=3, image_size=(32, 32))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_vgg8b_has_the_size_in_the_paper():  # Nøkland & Eidnes 2019: 8.9 million for CIFAR-10
    with torch.device("meta"):
        model = build_model("vgg8b", classes=10, channels=3, image_size=(32, 32))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(8.9, abs=0.05)


def norm(x, state, key):
    return F.batch_norm(x, *(state[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")))


def ordinary_resnet(state, x, layers, large):
    """The usual formulation, ReLU after the sum, written from the state_dict alone."""
    h = F.conv2d(x, state["stem.conv.weight"], stride=2 if large else 1, padding=3 if large else 1)
    h = F.relu(norm(h, state, "stem.norm"))
    if large:
        h = F.max_pool2d(h, 3, 2, 1)
    for key in sorted({".".join(k.split(".")[:2]) for k in state if k.startswith("stage")}):
        stride = 2 if key.endswith(".0") and not key.startswith("stage1") else 1
        r = h
        for i in range(1, layers + 1):
            weight = state[f"{key}.conv{i}.weight"]
            strided = i == (2 if layers == 3 else 1)
            r = F.conv2d(r, weight, stride=stride if strided else 1, padding=weight.shape[-1] // 2)
            r = norm(r, state, f"{key}.norm{i}")
            r = F.relu(r) if i < layers else r
        if f"{key}.shortcut.conv.weight" in state:
            h = F.conv2d(h, state[f"{key}.shortcut.conv.weight"], stride=stride)
            h = norm(h, state, f"{key}.shortcut.norm")
        elif h.shape != r.shape:
            padded = torch.zeros_like(r)
            padded[:, : h.shape[1]] = h[:, :, ::stride, ::stride]
            h = padded
        h = F.relu(h + r)
    return F.linear(h.mean((2, 3)), state["head.linear.weight"], state["head.linear.bias"])


@pytest.mark.parametrize(
    ("name", "layers", "stem", "side"),
    [
        ("resnet18", 2, "small", 16),
        ("resnet18", 2, "large", 64),
        ("resnet50", 3, "small", 16),
        ("resnet50", 3, "large", 64),
        ("resnet20", 2, None, 12),
    ],
)
def test_resnets_equal_the_formulation_with_relu_after_the_sum(name, layers, stem, side):
    options = {"stem": stem} if stem else {}
    model = small(name, 3, side, **options).double()
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    prepare_for_device(model, x)
    expected = ordinary_resnet(model.state_dict(), x, layers, stem == "large")
    assert torch.allclose(model(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 8), ("resnet34", 16), ("resnet50", 16), ("resnet20", 9)])
def test_resnets_have_one_unit_per_residual_unit(name, count):
    assert len(small(name).units()) == count


def test_mlp_has_the_layers_of_the_method():
    model = build_model("mlp", classes=10, channels=1, image_size=(28, 28))
    shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert shapes == [(512, 784), (512, 512), (512, 512), (10, 512)]
    assert [name for name, _ in model.units()] == ["hidden1", "hidden2", "hidden3", "head"]


def test_mlp_without_norm_has_biases_instead():
    model = build_model("mlp", classes=10, channels=1, image_size=(4, 4), width=3, depth=1, norm=False)
    assert sorted(model.state_dict()) == [
        "head.linear.bias", "head.linear.weight", "hidden1.linear.bias", "hidden1.linear.weight"]  # fmt: skip


def test_vgg8b_drops_units_only_in_training():
    model = small("vgg8b", dropout=0.5)
    x = torch.randn(4, *model.input_shape)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet8", {}, "Did you mean"),
        ("resnet18", {"image_size": (16, 16), "stem": "large"}, "stem='small'"),
        ("resnet18", {"image_size": (4, 4)}, "at least 5x5"),
        ("resnet18", {"stem": "smal"}, "Did you mean 'small'"),
        ("resnet18", {"depths": (1, 1)}, "unknown option"),
        ("resnet20", {"stem": "large"}, "unknown option"),
        ("vgg8b", {"image_size": (8, 8)}, "at least 16x16"),
        ("vgg8b", {"dropout": 1.0}, "dropout"),
        ("mlp", {"depth": 0}, "depth"),
        ("mlp", {"norm": 1}, "norm"),
        ("mlp", {"width": 2.5}, "width"),
        ("mlp", {"classes": 0}, "classes"),
        ("mlp", {"channels": -1}, "channels"),
        ("mlp", {"image_size": 28}, "image_size"),
        ("mlp", {"image_size": (28, 0)}, "width"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(name, changes, message):
    arguments = {"classes": 10, "channels": 1, "image_size": (32, 32), **changes}
    with pytest.raises(InputError, match=message):
        build_model(name, **arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"\[2, 3, 8, 8\].*\[B, 1, 8, 8\]"),
        (torch.zeros(1, 8, 8), r"\[B, 1, 8, 8\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "floating"),
        ([1, 2], "list"),
    ],
)
def test_input_of_another_shape_or_type_is_refused(x, message):
    with pytest.raises(InputError, match=message):
        check_input(small("mlp"), x)


def test_models_without_a_stated_shape_are_not_checked():
    check_input(torch.nn.Linear(2, 2), torch.zeros(7, 9))


@pytest.mark.parametrize("width", [2, 4, 6])
def test_a_narrow_shortcut_is_the_strided_convolution(width):
    """Picked pixels and a 1x1 convolution, in the place of the strided one that oneDNN breaks on narrow maps."""
    unit = build_model("resnet18", classes=3, channels=1, image_size=(8, 8), width=width).stage2[0]
    strided = torch.nn.Conv2d(width, 2 * width, 1, 2, bias=False)
    strided.load_state_dict({"weight": unit.shortcut.conv.weight.detach()})
    x = torch.randn(3, width, 8, 8, generator=torch.Generator().manual_seed(0))
    picked = unit.shortcut.conv(unit.shortcut.sample(x))
    torch.testing.assert_close(picked, strided(x))
    assert set(unit.state_dict()) == set(
        build_model("resnet18", classes=3, channels=1, image_size=(8, 8), width=8).stage2[0].state_dict()
    )
