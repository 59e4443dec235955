"""Cutting library models, Sequentials and modules with units of their own."""

import pytest
import torch
from batteries import thinned
from model_names import IMAGE_MODELS
from splitting_helpers import assert_equals_forward, batch, small
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal.splitting import split

torch.set_num_threads(1)


class TestLibraryModels:
    @pytest.mark.parametrize(("name", "balance"), thinned(IMAGE_MODELS, ["count", "time", "flops", "bytes"]))
    def test_blocks_in_order_equal_forward(self, name, balance):
        if name == "resnet110" and balance == "time":
            pytest.skip("the other depths show it")
        model = small(name)
        parts = split(model, 4, balance=balance, example=batch())
        assert len(parts.blocks) == len(parts.names) == 4
        assert parts.after_activation == [False] * 3
        assert_equals_forward(parts, model, batch())

    @pytest.mark.parametrize("name", IMAGE_MODELS)
    def test_cutting_at_every_unit_equals_forward(self, name):
        model = small(name)
        names = [unit for unit, _ in model.units()]
        parts = split(model, at=names[1:])
        assert parts.names == names
        assert_equals_forward(parts, model, batch())

    @pytest.mark.parametrize("name", IMAGE_MODELS)
    def test_blocks_share_the_users_weights_and_leave_them_alone(self, name):
        model = small(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        held = {id(p) for block in split(model, 2).blocks for p in block.parameters()}
        assert held == {id(p) for p in model.parameters()}
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    @pytest.mark.parametrize(
        ("name", "firsts"),
        [("resnet18", ["stage1.0", "stage2.0", "stage3.0", "stage4.0"]), ("resnet50", [0, 4, 8, 12])],
    )
    def test_four_blocks_of_a_resnet_are_those_of_the_paper(self, name, firsts):  # method §6
        model = small(name)
        names = [unit for unit, _ in model.units()]
        starts = [part.split("–")[0] for part in split(model, 4).names]
        assert starts == [names[f] if isinstance(f, int) else f for f in firsts]

    def test_a_stage_may_be_named_instead_of_its_first_unit(self):
        assert split(small("resnet18"), at=["stage2", "stage4"]).names == split(
            small("resnet18"), at=["stage2.0", "stage4.0"]
        ).names  # fmt: skip

    def test_a_name_inside_a_unit_is_cut_where_no_skip_is_severed(self):
        model = small("resnet18")
        parts = split(model, at=["stage3", "head"])
        assert_equals_forward(parts, model, batch())
        assert parts.after_activation == [False, False]

    @pytest.mark.parametrize("inner", ["stage1.0.conv2", "stage2.0.shortcut", "stage3.1.norm1"])
    def test_a_cut_through_a_skip_is_refused_naming_what_crosses(self, inner):
        with pytest.raises(InputError, match=rf"cannot cut at '{inner}'.*skip connection.*relu in 'stage"):
            split(small("resnet18"), at=[inner])

    def test_one_block_is_the_whole_network(self):
        model = small("mlp")
        parts = split(model, 1)
        assert len(parts.blocks) == 1
        assert_equals_forward(parts, model, batch())


@pytest.mark.parametrize("name", ["mlp", "resnet18", "vgg8b"])
class TestPlainModule:
    def test_has_the_users_names_and_the_trained_weights(self, name):
        model = small(name)
        parts = split(model, 2)
        with torch.no_grad():
            for parameter in parts.blocks[1].parameters():
                parameter.add_(1)
        plain = parts.to_plain()
        assert type(plain) is type(model)
        assert not plain.training
        assert model.training
        assert list(plain.state_dict()) == list(model.state_dict())
        assert all(
            torch.equal(a, b) for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True)
        )
        assert not {id(p) for p in plain.parameters()} & {id(p) for p in model.parameters()}

    def test_exports(self, name):
        plain, x = split(small(name), 2).to_plain(), batch()
        exported = torch.export.export(plain, (x,)).module()
        assert torch.allclose(exported(x), plain(x), atol=1e-5)


def test_plain_module_exports_to_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    plain = split(small("resnet20", side=8), 3).to_plain()
    torch.onnx.export(plain, (batch(side=8),), tmp_path / "model.onnx", dynamo=True, verbose=False)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))


class TestSequential:
    def network(self, inplace=False):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)),
            nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace), nn.MaxPool2d(2)),
            nn.Flatten(),
            nn.Linear(6 * 64, 5),
        )

    def test_units_are_cut_before_the_activation(self):
        parts = split(self.network(), 3)
        kinds = [[type(layer).__name__ for layer in block] for block in parts.blocks]
        assert kinds == [
            ["Conv2d", "BatchNorm2d"],
            ["ReLU", "Conv2d", "BatchNorm2d"],
            ["ReLU", "MaxPool2d", "Flatten", "Linear"],
        ]
        assert parts.names == ["0.0–0.1", "0.2–1.1", "1.2–3"]
        assert parts.after_activation == [False, False]
        assert_equals_forward(parts, parts.model, batch())

    def test_without_activations_every_weighted_layer_is_a_unit(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(3, 2), nn.Softmax(-1))
        assert split(model, 3).names == ["0–1", "2", "3–4"]

    def test_any_layer_or_nested_sequential_may_be_named(self):
        model = self.network()
        parts = split(model, at=["3", "1"])  # in network order, whatever the order given
        assert parts.names == ["0.0–0.2", "1.0–2", "3"]
        assert parts.after_activation == [True, True]
        assert_equals_forward(parts, model, batch())

    @pytest.mark.parametrize("at", [["0.2"], ["1.2"], ["1.3"], ["2"]])
    def test_an_in_place_activation_leaves_the_message_before_it_alone(self, at):
        model = self.network(inplace=True)
        parts = split(model, at=at)
        message = parts.blocks[0](batch())
        kept = message.clone()
        parts.blocks[1](message)
        assert torch.equal(message, kept)
        assert_equals_forward(parts, model, batch())

    def test_one_activation_instance_may_serve_several_blocks(self):
        relu = nn.ReLU()
        model = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu, nn.Linear(3, 2))
        parts = split(model, 3)
        assert_equals_forward(parts, model, torch.randn(4, 3))

    def test_one_weighted_module_in_two_blocks_is_refused_by_name(self):
        shared = nn.Linear(3, 3)
        model = nn.Sequential(nn.Linear(3, 3), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(3, 2))
        with pytest.raises(InputError, match=r"'1' .*blocks 2 and 3"):
            split(model, 4)

    def test_tied_weights_in_two_blocks_are_refused(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        model[2].weight = model[0].weight
        with pytest.raises(InputError, match="weight"):
            split(model, 2)

    def test_names_that_differ_only_in_their_dots_stay_apart(self):
        model = nn.Sequential()
        model.add_module("a", nn.Sequential(nn.Linear(2, 2)))
        model.a.add_module("b", nn.Linear(2, 2))
        model.add_module("a_b", nn.Linear(2, 2))
        assert_equals_forward(split(model, 1), model, torch.randn(3, 2))

    def test_a_block_without_weights_is_refused(self):
        with pytest.raises(InputError, match="no weights"):
            split(self.network(), at=["1.2", "1.3"])


class OwnUnits(nn.Module):
    def __init__(self, names=("first", "second")):
        super().__init__()
        self.a, self.b, self.names = nn.Linear(2, 2), nn.Linear(2, 2), names

    def units(self):
        return list(zip(self.names, (self.a, self.b), strict=False))

    def forward(self, x):
        return self.b(self.a(x))


class TestRequests:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "either blocks"),
            ({"blocks": 2, "at": ["stage2"]}, "either blocks"),
            ({"blocks": 0}, "at least 1"),
            ({"blocks": 9}, "9 blocks.*8 pieces"),
            ({"blocks": 2, "balance": "flop"}, "Did you mean 'flops'"),
            ({"blocks": 2, "balance": "time"}, "example"),
            ({"at": ["stage2"], "balance": "time", "example": torch.zeros(1)}, "blocks="),
            ({"at": "stage2"}, "list"),
            ({"at": ["stage2.2"]}, "Did you mean 'stage2"),
            ({"at": ["stage1"]}, "starts the network"),
            ({"at": ["stage2", "stage2.0"]}, "same place"),
            ({"blocks": 2, "balance": "bytes", "example": torch.zeros(2, 3, 16, 16)}, r"piece 0.*\[2, 3, 16, 16\]"),
        ],
    )
    def test_bad_requests_are_refused_with_the_reason(self, arguments, message):
        with pytest.raises(InputError, match=message):
            split(small("resnet18"), **arguments)

    def test_units_that_forget_a_weight_are_refused(self):
        with pytest.raises(InputError, match=r"leaves out b\.weight"):
            split(OwnUnits(("first",)), 1)

    def test_units_of_one_name_are_refused(self):
        with pytest.raises(InputError, match="twice"):
            split(OwnUnits(("same", "same")), 2)

    def test_a_users_own_units_need_not_be_submodule_names(self):
        assert split(OwnUnits(), at=["second"]).names == ["first", "second"]

    def test_an_empty_sequential_is_refused(self):
        with pytest.raises(InputError, match="empty"):
            split(nn.Sequential(), 1)
