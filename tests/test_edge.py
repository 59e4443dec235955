"""What a network is given is looked at once, before anything changes. Oracles: the message, and weights bit for bit."""

import copy

import numpy as np
import pytest
import torch
from rule_helpers import ALL_RULES, parameters, same, state
from torch import nn

from blocklocal import BlockLocal, InputError, evaluate, sgd, split
from blocklocal.block.targets import Classes, Labels
from blocklocal.network.edge import check_batch

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def network(model=None, example=X, **settings):
    targets = {} if "labels" in settings else {"classes": 3}
    given = {"readout": 0, "example": example, "optimizer": sgd(0.1), **targets, **settings}
    return BlockLocal(split(model or mlp(), 3), **given)


def images(channels=3, norm=True):
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def spoiled(value, where=(2, 1)):
    x = X.clone()
    x[where] = value
    return x


WRONG = {
    "NaN": (spoiled(torch.nan), Y, r"NaN or infinite values, in 1 of 6 samples \(the first: 2\)"),
    "infinite": (spoiled(torch.inf), Y, "NaN or infinite"),
    "no samples": (X[:0], Y[:0], r"x has the shape \[0, 4\], which holds no sample"),
    "no batch": (torch.tensor(1.0), torch.tensor(1), r"x has the shape \[\]"),
    "no targets": (X, Y[:0], r"y has the shape \[0\], which holds no sample"),
    "fewer targets": (X, Y[:4], r"targets of shape \[4\] for 6 samples"),
    "targets in a column": (X, Y.unsqueeze(1), r"shape \[6, 1\] do not fit .* needs \[6\]"),
    "float targets": (X, Y.float(), r"whole numbers \(int64\), not torch.float32"),
    "complex targets": (X, Y.to(torch.complex64), "not torch.complex64"),
    "truth values for classes": (X, Y.bool(), "not torch.bool; for labels use labels="),
    "shares of more than one": (X, 2 * torch.eye(3)[Y], r"shares of the classes"),
    "too large": (X, Y + 1, "target 3 is outside the classes"),
    "negative": (X, Y - 1, "target -1 is outside the classes"),
    "array": (X.numpy(), Y, r"x must be a tensor, not ndarray: give torch.as_tensor\(x\)"),
    "list of targets": (X, Y.tolist(), "y must be a tensor, not list"),
    "nothing": (None, Y, "x must be a tensor, not NoneType"),
    "another device": (X.to("meta"), Y, r"x is on meta, the network on cpu: give x.to\('cpu'\)"),
    "targets elsewhere": (X, Y.to("meta"), "y is on meta, the network on cpu"),
    "double precision": (X.double(), Y, r"torch.float64 and .* weights are torch.float32: convert it, x.float\(\)"),
    "half precision": (X.half(), Y, r"input is torch.float16 .* x.float\(\)"),
    "whole numbers": (X.long(), Y, r"input is torch.int64 .* x.float\(\)"),
    "other features": (torch.randn(6, 5), Y, r"cannot run on a batch of shape \[2, 5\]"),
    "one more axis": (torch.randn(6, 7, 4), Y, r"shape \[6\] do not fit .* needs \[6, 7\]"),
}  # fmt: skip


class TestStep:
    @pytest.mark.parametrize("kind", WRONG)
    def test_what_cannot_be_right_is_refused_and_nothing_changes(self, kind):
        x, y, message = WRONG[kind]
        net = network()
        before = state(net)
        with pytest.raises(InputError, match=message):
            net.step(x, y)
        assert net.steps == 0
        assert same(state(net), before)
        assert all(p.grad is None for p in net.parameters())

    @pytest.mark.parametrize("kind", [kind for kind in WRONG if kind not in ("other features", "one more axis")])
    def test_it_is_refused_as_the_first_batch_too(self, kind):
        x, y, message = WRONG[kind]
        net = network(example=None)
        with pytest.raises(InputError, match=message):
            net.step(x, y)
        net.step(X, Y)
        other = network(example=None)
        other.step(X, Y)
        assert same(state(net), state(other))

    @pytest.mark.parametrize("kind", WRONG)
    def test_the_network_goes_on_as_if_nothing_had_been(self, kind):
        x, y, _ = WRONG[kind]
        net, other = network(), network()
        net.step(X, Y)
        other.step(X, Y)
        with pytest.raises(InputError):
            net.step(x, y)
        net.step(X, Y)
        other.step(X, Y)
        assert same(state(net), state(other))


@pytest.mark.parametrize(
    "kind", ["NaN", "infinite", "no samples", "array", "nothing", "another device", "double precision"]
)
@pytest.mark.parametrize("call", ["predict", "evaluate"])
def test_what_cannot_be_predicted_is_refused_and_the_mode_stays(kind, call):
    x, _, message = WRONG[kind]
    net = network()
    assert net.training
    if call == "evaluate" and not isinstance(x, torch.Tensor):
        message = "a batch must be"
    with pytest.raises(InputError, match=message):
        net.predict(x) if call == "predict" else evaluate(net, [(x, Y[: 0 if kind == "no samples" else 6])])
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    "kind", ["fewer targets", "targets in a column", "float targets", "complex targets", "too large", "negative"]
)
def test_targets_that_cannot_be_evaluated_are_refused(kind):
    net, (x, y, _) = network(), WRONG[kind]
    with pytest.raises(InputError, match="target"):
        evaluate(net, [(X, Y), (x, y)])
    assert net.training


class TestBinaryLabels:
    @pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.float64])
    def test_truth_values_whole_numbers_and_floats_teach_alike(self, dtype):
        y, nets = torch.randint(2, (6, 3)), [network(labels=3) for _ in range(2)]
        nets[0].step(X, y)
        nets[1].step(X, y.to(dtype).requires_grad_(dtype.is_floating_point))
        assert same(state(nets[0]), state(nets[1]))
        assert evaluate(nets[0], [(X, y)]) == evaluate(nets[1], [(X, y.to(dtype))])

    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (torch.zeros(6, 3, dtype=torch.complex64), "0 or 1, not torch.complex64"),
            (torch.full((6, 3), 0.5), "must be 0 or 1"),
            (torch.zeros(6, 2), r"shape \[batch, 3\], not \[6, 2\]"),
            (torch.zeros(6), r"shape \[batch, 3\], not \[6\]"),
            (torch.full((6, 3), torch.nan), "must be 0 or 1"),
        ],
        ids=["complex", "half", "too few", "flat", "NaN"],
    )
    def test_others_are_refused_by_step_and_evaluate(self, y, message):
        net = network(labels=3)
        before = state(net)
        with pytest.raises(InputError, match=message):
            net.step(X, y)
        with pytest.raises(InputError, match=message):
            evaluate(net, [(X, y)])
        assert same(state(net), before)

    def test_a_label_is_the_more_probable_answer_and_its_confidence_that_answers_probability(self):
        net = network(labels=3)
        for each in (net.predict(X), *net.predict(X).blocks, net.predict(X).combined):
            yes = each.probabilities
            assert each.label.shape == each.confidence.shape == yes.shape == (6, 3)
            assert each.label.tolist() == [[int(p > 0.5) for p in row] for row in yes.tolist()]
            assert torch.equal(each.confidence, torch.where(yes > 0.5, yes, 1 - yes))
            assert {0, 1} >= set(each.label.flatten().tolist())

    def test_labels_right_are_what_the_evaluation_counts(self):
        net, y = network(labels=3), torch.randint(2, (6, 3))
        right = (net.predict(X).label == y).double().mean().item()
        assert evaluate(net, [(X, y)]).top1 == pytest.approx(100 * right)


def test_class_numbers_above_155_in_bytes_are_not_taken_for_missing_ones():
    torch.manual_seed(0)
    nets = [BlockLocal(split(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 200)), 2), classes=200, readout=0)]
    nets.append(copy.deepcopy(nets[0]))
    y = torch.tensor([156, 199, 0, 156, 3, 155])
    for net, dtype in zip(nets, (torch.int64, torch.uint8), strict=True):
        net.step(X, y.to(dtype))
    assert same(state(nets[0]), state(nets[1]))
    assert evaluate(nets[0], [(X, y)]) == evaluate(nets[1], [(X, y.to(torch.uint8))])


# --- under no_grad and in inference mode


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "settings",
    [{"rule": rule} for rule in ALL_RULES] + [{"twin": "chain", "message_delay": 2}, {"scope": "neighbour"}],
    ids=str,
)
def test_a_step_takes_its_own_gradients(context, settings):
    nets = [network(images(), example=None, **settings) for _ in range(2)]
    x = torch.randn(6, 3, 8, 8)
    for _ in range(3):
        nets[0].step(x, Y)
    with context():
        for _ in range(3):
            nets[1].step(x * 1.0, Y * 1)
        nets[1].predict(x * 1.0)
    assert nets[1].steps == 3
    assert same(state(nets[0]), state(nets[1]))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_network_that_first_saw_a_batch_there_learns_elsewhere(context):
    nets = [network(example=None) for _ in range(2)]
    with context():
        nets[0].predict(X * 1.0)
        assert len(evaluate(nets[0], [(X * 1.0, Y)]).block_top1) == 3
    for net in nets:
        net.step(X, Y)
    assert same(state(nets[0]), state(nets[1]))


def test_a_model_that_was_built_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = mlp()
    with pytest.raises(InputError, match=r"built under torch\.inference_mode"):
        network(model)


# --- all blocks or none


@pytest.mark.parametrize("rule", ALL_RULES)
def test_images_that_only_a_later_block_cannot_read_change_no_block(rule):
    net = network(images(), example=torch.zeros(2, 3, 8, 8), rule=rule)
    before = state(net)
    with pytest.raises(InputError, match=r"cannot run on a batch of shape \[2, 3, 10, 10\]"):
        net.step(torch.randn(6, 3, 10, 10), Y)
    assert same(state(net), before)


def test_a_size_that_the_statistics_of_a_norm_do_not_fit_changes_no_block():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), Mean(), nn.Linear(4, 3))
    net = network(model, example=torch.zeros(2, 2, 12), normalise="batch")
    before = state(net)
    with pytest.raises(InputError, match="has statistics of"):
        net.step(torch.randn(6, 2, 14), Y)
    assert same(state(net), before)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(-1)


@pytest.mark.parametrize("channels", [(3, 1), (1, 3)])
@pytest.mark.parametrize("known", [True, False])
def test_images_of_other_channels_are_refused_in_one_sentence_that_names_them(channels, known):
    reads, has = channels
    net = network(images(reads), example=torch.zeros(2, reads, 8, 8) if known else None)
    x = torch.randn(6, has, 8, 8)
    for call in (lambda: net.step(x, Y), lambda: net.predict(x), lambda: evaluate(net, [(x, Y)])):
        with pytest.raises(InputError, match=rf"the input has {has} channels .* the network reads {reads}"):
            call()


def test_other_sizes_train_where_every_block_can_read_them():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), Mean(), nn.Linear(4, 3))
    net = network(model, example=torch.zeros(2, 2, 12), readout=1)
    for length in (12, 20, 9, 20):
        net.step(torch.randn(6, 2, length), Y)
    assert net.steps == 4


def test_half_precision_is_read_under_autocast_and_by_a_model_that_converts_it_itself():
    class Converts(nn.Module):
        def forward(self, x):
            return x.float()

    net = network()
    net.autocast(torch.bfloat16)
    net.step(X.bfloat16(), Y)
    net = network(nn.Sequential(nn.Sequential(Converts(), nn.Linear(4, 8)), nn.ReLU(), *mlp()[2:]))
    net.step(X.double(), Y)
    net.step((X * 10).to(torch.int32), Y)


class Fails(nn.Module):
    failing = False

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if self.failing and self.training:
            raise KeyError("of the user's own")
        return self.inner(x)


@pytest.mark.parametrize("scope", ["local", "neighbour"])
def test_an_error_of_the_users_own_leaves_no_gradient_behind(scope):
    model = mlp()
    model[4] = Fails(model[4])
    net = network(model, scope=scope)
    net.step(X, Y)
    net.split.model[4].failing = True
    with pytest.raises(KeyError):
        net.step(X, Y)
    net.split.model[4].failing = False
    assert all(p.grad is None for p in net.parameters())
    assert net.steps == 1
    net.step(X, Y)
    assert all(torch.isfinite(p).all() for p in net.parameters())


# --- a batch of one


def flat(norm):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), norm, nn.ReLU(), nn.Linear(8, 3))


ONE = {
    "block": (lambda: flat(nn.BatchNorm1d(8)), {}, r"block 2: .*BatchNorm1d"),
    "readout": (mlp, {"readout": 1}, r"block 1: local\.readout\.1 \(BatchNorm1d\)"),
    "normaliser": (mlp, {"normalise": "batch"}, r"block 1: local\.normaliser\.norm"),
    "frozen": (lambda: flat(nn.BatchNorm1d(8)), {"rule": "frozen"}, r"block 2: "),
    "backprop": (lambda: flat(nn.BatchNorm1d(8)), {"rule": "backprop"}, r"block 1: "),
}


@pytest.mark.parametrize("kind", ONE)
def test_a_batch_of_one_is_refused_where_a_batch_norm_would_have_one_value_per_channel(kind):
    make, settings, where = ONE[kind]
    net = network(make(), **settings)
    before = state(net)
    with pytest.raises(InputError, match=rf"{where}.* larger batches .*drop_last=True"):
        net.step(X[:1], Y[:1])
    assert same(state(net), before)
    net.step(X[:2], Y[:2])
    assert net.predict(X[:1]).probabilities.shape == (1, 3)


def test_the_norm_of_a_decoder_of_maps_of_one_pixel_is_looked_at_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    net = network(model, example=torch.zeros(2, 3, 8, 8), reconstruction=1.0)
    with pytest.raises(InputError, match=r"block 1: local\.decoders\.image\.layers\.0 \(BatchNorm2d\)"):
        net.step(torch.randn(1, 3, 8, 8), Y[:1])


def test_a_batch_of_one_trains_where_nothing_needs_more():
    net = network(images(norm=True), example=torch.zeros(2, 3, 8, 8))
    net.step(torch.randn(1, 3, 8, 8), Y[:1])  # a norm of 36 values per channel

    class Still(nn.BatchNorm1d):
        """Keeps its statistics, as in fine-tuning."""

        def train(self, mode=True):
            return super().train(False)

    network(flat(Still(8))).step(X[:1], Y[:1])


# --- what is looked at when


class Elsewhere(torch.Tensor):
    """Says that it is on a device where every look costs time."""

    @property
    def is_cuda(self):
        return True


def test_on_cuda_values_are_looked_at_in_the_first_step_alone_and_shapes_always():
    x, y = spoiled(torch.nan).as_subclass(Elsewhere), (Y + 5).as_subclass(Elsewhere)
    device = torch.device("cpu")
    check_batch(x, y, Classes(3), device, first=False)
    for first, given in ((True, (x, Y)), (True, (X, y)), (False, (x, y[:2])), (False, (x[:0], y[:0]))):
        with pytest.raises(InputError):
            check_batch(*given, Classes(3), device, first=first)


def test_a_stage_that_reads_no_images_looks_at_its_targets_alone():
    device, unread = torch.device("cpu"), torch.empty(6, 3, 0, 0)
    check_batch(unread, Y, Classes(3), device, first=True, reads=False)
    with pytest.raises(InputError, match="target 3 is outside"):
        check_batch(unread, Y + 1, Classes(3), device, first=True, reads=False)
    with pytest.raises(InputError, match="must be a tensor"):
        check_batch(unread, np.zeros((6, 3)), Labels(3), device, first=True, reads=False)


# --- weights of networks that do not know their shapes


def test_weights_do_not_go_into_a_network_that_does_not_know_its_shapes():
    with pytest.raises(InputError, match=r"^this network does not know its shapes yet.*example="):
        network(example=None).load_state_dict(network().state_dict())


def test_weights_of_a_network_that_did_not_know_its_shapes_are_refused_where_they_are_known():
    with pytest.raises(InputError, match=r"^these weights are of a network that does not know its shapes yet"):
        network().load_state_dict(network(example=None).state_dict())


def test_between_two_networks_that_do_not_know_their_shapes_weights_go():
    one, other = network(example=None), network(example=None)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(1.0)
    other.load_state_dict(one.state_dict())
    assert same(parameters(one), parameters(other))


class Counting(nn.Module):
    """Counts its calls in a buffer, in training and in evaluation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


def test_the_trial_of_a_batch_leaves_the_users_buffers_as_they_were():
    counting = Counting()
    model = nn.Sequential(counting, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    network = BlockLocal(split(model, blocks=2), classes=3)
    for step in (1, 2, 3):
        network.step(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))
        assert counting.calls == step


@pytest.mark.parametrize("shape", [(3, 4), (6,), (2, 3, 6)], ids=str)
def test_a_prediction_for_another_shape_is_one_sentence(shape):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    network = BlockLocal(split(model, blocks=2), classes=3, example=torch.zeros(2, 6))
    with pytest.raises(InputError):
        network.predict(torch.zeros(shape))


@pytest.mark.parametrize("example", [torch.zeros(2, 1, 6), None], ids=["known shapes", "unknown"])
def test_a_prediction_for_one_row_where_the_model_flattens_samples_is_one_sentence(example):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    network = BlockLocal(split(model, blocks=2), classes=3, example=example)
    with pytest.raises(InputError, match=r"cannot run on .*shape \[(2|6)\]"):
        network.predict(torch.zeros(6))


def test_a_batch_of_one_is_still_refused_in_training_after_it_was_predicted():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    network = BlockLocal(split(model, blocks=2), classes=3, example=torch.zeros(2, 6))
    network.predict(torch.zeros(1, 6))
    with pytest.raises(InputError, match="BatchNorm"):
        network.step(torch.zeros(1, 6), torch.tensor([0]))


@pytest.mark.parametrize("x", [{"image": torch.zeros(4, 6)}, torch.zeros(4, 6).to_sparse()], ids=["dict", "sparse"])
def test_what_is_no_dense_tensor_is_named(x):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    network = BlockLocal(split(model, blocks=2), classes=3)
    with pytest.raises(InputError, match=r"x\['image'\] of shape .* not dict|to_dense"):
        network.step(x, torch.tensor([0, 1, 2, 0]))


def tokens_and_labels(count=4, length=6):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.hidden, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)

        def units(self):
            return [("table", First(self.table)), ("hidden", self.hidden), ("head", self.head)]

        def forward(self, input_ids):
            return self.head(self.hidden(self.table(input_ids)))

    class First(nn.Module):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def forward(self, x):
            return self.table(x["input_ids"] if isinstance(x, dict) else x)

    tokens = torch.randint(9, (count, length), generator=torch.Generator().manual_seed(0))
    return BlockLocal(split(Words(), 3), classes=9, readout=0), tokens


def test_labels_that_are_the_tokens_themselves_are_refused_before_a_network_learns_to_copy():
    network, tokens = tokens_and_labels()
    padded = tokens.clone()
    padded[:, -1] = -100
    for y in (tokens, padded):
        before = state(network)
        with pytest.raises(InputError, match=r"learn to copy.*labels\[:, :-1\] = labels\[:, 1:\]"):
            network.step({"input_ids": tokens}, y)
        assert same(before, state(network))


@pytest.mark.parametrize("kept", [3, 24])
def test_labels_of_the_next_token_and_a_few_tokens_that_a_mask_left_as_they_are_are_taken(kept):
    network, tokens = tokens_and_labels()
    y = torch.full_like(tokens, -100)
    if kept == 3:
        y[0, :3] = tokens[0, :3]
    else:
        y[:, :-1] = tokens[:, 1:]
    network.step({"input_ids": tokens}, y)
