"""A network is cut by running it, where torch.fx cannot trace it: real classes of transformers, built tiny."""

from itertools import pairwise

import pytest
import torch
from other_libraries import TEXT, ids, images, quiet_import
from splitting_helpers import compose
from torch import Tensor, nn

from blocklocal import BlockLocal, InputError, split
from blocklocal._common.message import Message, call
from blocklocal.splitting.calls import one_tensor

torch.set_num_threads(1)


def vit(**settings):
    lib = quiet_import("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    return lib.ViTForImageClassification(lib.ViTConfig(**sizes, num_hidden_layers=4, num_labels=5, **settings))


def text(kind, config, **settings):
    lib = quiet_import("transformers")
    torch.manual_seed(0)
    return getattr(lib, kind)(getattr(lib, config)(**{**TEXT, **settings}))


def bert(**settings):
    return text("BertForSequenceClassification", "BertConfig", num_labels=5, **settings)


def llama():
    return text("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2)


def assert_is_the_network(parts, model, x):
    """Values in both modes, with the same random numbers, and every weight in one block."""
    for training in (False, True):
        model.train(training)
        for block in parts.blocks:
            block.train(training)
        torch.manual_seed(7)
        wanted = one_tensor(call(model, x), "")
        torch.manual_seed(7)
        assert torch.equal(compose(parts.blocks, x), wanted)
    owned = [id(p) for block in parts.blocks for p in block.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(("build", "x"), [(vit, images()), (bert, ids()), (llama, ids())])
def test_the_blocks_of_a_model_of_transformers_are_the_model(build, x):
    model = build()
    parts = split(model, blocks=4)
    assert_is_the_network(parts, model, x)


def test_blocks_take_another_number_of_samples_and_another_length_than_the_example():
    model = llama()
    parts = split(model, blocks=4, example=ids(2, 9))
    for x in (ids(5, 6), ids(1, 12)):
        assert_is_the_network(parts, model, x)


def test_padding_travels_as_the_mask_of_the_message():
    x = ids()
    message = split(bert(), blocks=4).blocks[0](x)
    assert isinstance(message, Message)
    assert torch.equal(message.mask, x["attention_mask"] == 1)
    assert message.hidden.shape == (4, 7, 16)
    assert not message.beside


def test_a_mask_that_the_example_does_not_need_is_handed_on_all_the_same():
    model, whole = bert(), ids()
    whole["attention_mask"] = torch.ones_like(whole["attention_mask"])
    assert_is_the_network(split(model, blocks=4, example=whole), model, ids())


def test_one_tensor_crosses_where_nothing_else_is_read():
    model = vit()
    assert isinstance(split(model, blocks=2).blocks[0](images()), Tensor)


def test_later_blocks_hold_nothing_of_earlier_ones():
    sizes = [sum(p.numel() for p in block.parameters()) for block in split(vit(), blocks=4).blocks]
    assert sizes[1] == sizes[2] < sizes[0]


def test_a_cut_is_found_again_from_its_starts_and_from_names():
    model = vit()
    parts = split(model, blocks=3)
    assert split(model, starts=parts.starts).names == parts.names
    named = split(model, at=["vit.layers.1", "vit.layers.3"])
    assert named.names == ["vit.layers.0", "vit.layers.1–vit.layers.2", "vit.layers.3"]
    assert_is_the_network(named, model, images())


def test_block_local_learning_makes_the_loss_fall_and_gives_the_plain_model_back():
    model = vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = BlockLocal(split(model, blocks=4), classes=5, example=images())
    plain = network.to_plain()
    assert type(plain) is type(model)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    x, y = images(), torch.tensor([0, 1, 2, 3])
    losses = [network.step(x, y)[-1].loss.item() for _ in range(8)]
    assert losses[-1] < losses[0]


def test_a_tied_head_is_refused_with_what_to_do():
    model = text("GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=4, n_head=2, n_positions=20)
    with pytest.raises(InputError, match=r"wte.weight' is used on both sides.*tie_word_embeddings=False"):
        split(model, blocks=2)


class Stack(nn.Module):
    """Recurrent layers in a list, with Python that torch.fx cannot follow."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleList([kind(6, 6, batch_first=True) for _ in range(3)])
        self.head = nn.Linear(6, 3)

    def forward(self, x, scale=None):
        if x.abs().max() > 1e6:
            x = x / 2
        for layer in self.inner:
            x, _ = layer(x)
        return {"logits": self.head(x[:, -1])}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_that_give_tuples_are_cut(kind):
    model, x = Stack(kind), torch.randn(4, 5, 6)
    assert_is_the_network(split(model, blocks=3, example=x), model, x)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise([3, 4, 8, 8])])
        self.up = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1) for a, b in [(16, 4), (12, 4)]])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        kept = []
        for layer in self.down:
            x = layer(x).relu()
            kept.append(x)
            x = nn.functional.max_pool2d(x, 2)
        for layer, skip in zip(self.up, reversed(kept[1:]), strict=True):
            x = nn.functional.interpolate(x, skip.shape[-2:])
            x = layer(torch.cat([x, skip], 1)).relu()
        return self.head(nn.functional.interpolate(x, scale_factor=2))


def test_skip_connections_are_carried_across_a_cut_on_request():
    model, x = UNet(), images(side=16)
    with pytest.raises(InputError, match="skip connection"):
        split(model, at=["up.0"], example=x)
    parts = split(model, at=["down.2", "up.0", "up.1"], example=x, carry=True)
    assert_is_the_network(parts, model, x)
    message = parts.blocks[1](parts.blocks[0](x))
    assert list(message.beside) == ["down.1"]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return {"one": x, "two": x + 1}


def test_an_output_of_several_tensors_is_refused_by_their_names():
    with pytest.raises(InputError, match="the tensors one, two"):
        split(Two(), blocks=2, example=torch.randn(4, 4))


class Shared(nn.Module):
    """One activation in place and one dropout for all layers; the first position decides what is done."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.act, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(6, 3)

    def forward(self, x, *, scale=1.0):
        for layer in self.layers:
            if x.shape[0] > 100:
                break
            x = self.drop(self.act(layer(x))) * scale
        return self.head(x)


def test_modules_without_weights_may_be_shared_by_blocks_and_work_in_place():
    model, x = Shared(), torch.randn(4, 6)
    parts = split(model, blocks=4, example={"x": x, "scale": torch.ones(1)})
    given = {"x": x, "scale": torch.full((1,), 0.5)}
    assert_is_the_network(parts, model, given)
    message = parts.blocks[0](given)
    before = message.hidden.clone()
    parts.blocks[1](message)
    assert torch.equal(message.hidden, before)


def test_a_forward_that_leaves_layers_out_is_told_so():
    parts = split(Shared(), blocks=4, example={"x": torch.randn(4, 6)})
    with pytest.raises(InputError, match="on the example the forward called other modules first"):
        parts.blocks[0]({"x": torch.randn(101, 6)})


class Again(nn.Module):
    """The same layer, twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)] * 2)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return {"logits": x}


def test_a_layer_that_both_sides_use_is_named():
    with pytest.raises(InputError, match=r"layers.0.bias' is used on both sides"):
        split(Again(), blocks=2, example=torch.randn(4, 4))


def test_a_leaf_that_the_user_names_stays_whole_and_an_unknown_one_is_refused():

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.two(self.one(x).relu())

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Inner(), Inner()

        def forward(self, x):
            return self.b(self.a(x))

    assert split(Outer(), blocks=4).names == ["a.one", "a.two", "b.one", "b.two"]
    assert split(Outer(), blocks=2, leaf=[Inner]).names == ["a", "b"]
    assert split(Outer(), blocks=3, leaf=["a"]).names == ["a", "b.one", "b.two"]
    with pytest.raises(InputError, match="unknown leaf 'c'"):
        split(Outer(), blocks=2, leaf=["c"])
