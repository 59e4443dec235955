"""What a network may be asked for: values, pixels, soft targets, weights, and losses and metrics of one's own.

Oracles: samples that are repeated or left out, the same targets said in another way, and closed forms.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blocklocal as bl
from blocklocal import BlockLocal, InputError, Values, balanced, evaluate, split
from blocklocal.block.classes import Classes
from blocklocal.block.target import Target
from blocklocal.block.values import REACH, ROWS, centres

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1])
MAPS = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
PIXELS = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(2))
OBJECTIVES = ["evidence", "variational", "printed-eq8", "projection"]
ALONE = ["block-local", "greedy", "target-projection", "direct-feedback-alignment", "backprop", "feedback-alignment"]


def dense(outputs: int = 3, width: int = 8) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))


def network(outputs: int = 3, width: int = 8, **settings) -> BlockLocal:
    """Without readouts, which have a BatchNorm: every sample stands for itself."""
    asked = {} if {"labels", "values"} & set(settings) else {"classes": 3}
    given = {"optimizer": bl.sgd(lr=0.1), "readout": 0, "example": X[:2], **asked, **settings}
    return BlockLocal(split(dense(outputs, width), blocks=3), **given)


def conv() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU()),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3, padding=1)),
    )


def segmenting(**settings) -> BlockLocal:
    return BlockLocal(
        split(conv(), blocks=3), classes=3, example=MAPS[:2], **{"readout": 0, "optimizer": bl.sgd(lr=0.1), **settings}
    )


def after(net: BlockLocal, *batches: tuple[Tensor, ...]) -> dict[str, Tensor]:
    for batch in batches:
        net.step(*batch)
    return {name: value for name, value in net.state_dict().items() if name != "_extra_state"}


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


def learned(settings: dict) -> list[dict]:
    """The settings of a network for every objective of hidden blocks, and every other rule."""
    family = {"printed-eq8": {"family": "bernoulli"}}
    return [{**settings, "objective": name, **family.get(name, {})} for name in OBJECTIVES] + [
        {**settings, "rule": rule} for rule in ALONE[1:]
    ]


WAYS = learned({})
NAMES = [way.get("rule", way.get("objective")) for way in WAYS]


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
class TestWeights:
    def test_a_sample_of_weight_two_counts_as_two_equal_samples(self, way):
        weight = torch.tensor([2.0, 1, 1, 1, 1, 3, 1, 1])
        times = weight.long()
        repeated = X.repeat_interleave(times, 0), Y.repeat_interleave(times)
        assert close(after(network(**way), (X, Y, weight)), after(network(**way), repeated))

    def test_class_weights_count_as_repeated_samples_of_the_class(self, way):
        times = torch.tensor([1, 3, 2])[Y]
        repeated = X.repeat_interleave(times, 0), Y.repeat_interleave(times)
        weighted = network(**way, class_weights=[1, 3, 2], label_smoothing=0.1)
        assert close(after(weighted, (X, Y)), after(network(**way, label_smoothing=0.1), repeated))

    def test_a_sample_of_weight_zero_is_left_out(self, way):
        weight = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1])
        kept = weight > 0
        assert close(after(network(**way), (X, Y, weight)), after(network(**way), (X[kept], Y[kept])))

    def test_soft_targets_that_are_one_hot_equal_hard_ones(self, way):
        soft = F.one_hot(Y, 3).float()
        assert close(after(network(**way), (X, soft)), after(network(**way), (X, Y)))

    def test_values_of_weight_zero_are_left_out(self, way):
        y, weight = X @ torch.ones(6, 1), torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1])
        kept = weight > 0
        asked = {**way, "values": 1}
        assert close(after(network(1, **asked), (X, y, weight)), after(network(1, **asked), (X[kept], y[kept])))

    def test_the_loss_of_the_values_output_falls(self, way):
        net, y = network(2, **way, values=2, optimizer=bl.sgd(lr=0.01)), X[:, :2] * 2
        losses = [net.step(X, y)[-1].loss for _ in range(30)]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("part", [{"similarity": 1.0}, {"reconstruction": 1.0}], ids=["similarity", "reconstruction"])
def test_parts_leave_out_a_sample_of_weight_zero(part):
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1])
    kept = weight > 0
    assert close(after(network(**part), (X, Y, weight)), after(network(**part), (X[kept], Y[kept])))


def test_weights_per_label_leave_out_a_label_as_missing_does():
    labels, weight = F.one_hot(Y, 3), torch.ones(8, 3)
    weight[2, 1] = 0
    missing = labels.clone()
    missing[2, 1] = -100
    assert close(after(network(labels=3), (X, labels, weight)), after(network(labels=3), (X, missing)))


def test_a_mixed_target_is_the_mean_of_the_losses_of_its_two_classes():
    """The definition of mixup's loss."""
    logits, (a, b) = torch.randn(5, 3), torch.randint(0, 3, (2, 5))
    share = 0.3
    mixed = share * F.one_hot(a, 3).float() + (1 - share) * F.one_hot(b, 3).float()
    kind = Classes(3)
    assert torch.isclose(kind.loss(logits, mixed), share * kind.loss(logits, a) + (1 - share) * kind.loss(logits, b))


def test_class_weights_are_those_of_torch():
    logits, weight = torch.randn(8, 3), torch.tensor([0.5, 2.0, 1.0])
    soft = torch.rand(8, 3).softmax(-1)
    kind = Classes(3, (0.5, 2.0, 1.0))
    assert torch.isclose(kind.loss(logits, Y), F.cross_entropy(logits, Y, weight))
    unscaled = F.cross_entropy(logits, soft, weight, reduction="sum")
    assert torch.isclose(kind.loss(logits, soft), unscaled / (soft * weight).sum())


def test_balanced_weights_give_every_class_the_same_part_and_keep_the_total():
    y = torch.tensor([0, 0, 0, 0, 1, 1, 3, -100])
    weights = torch.tensor(balanced(y, 4))
    totals = [weights[c] * (y == c).sum() for c in (0, 1, 3)]
    assert torch.allclose(torch.stack(totals), torch.tensor(7 / 3))
    assert weights[2] == 0


def test_weights_do_not_change_what_is_measured():
    net = network(class_weights=[1, 5, 1])
    assert evaluate(net, [(X, Y, torch.rand(8))]) == evaluate(net, [(X, Y)])
    assert evaluate(net, [(X, Y)]).nll == evaluate(network(), [(X, Y)]).nll


# --- values


class TestValues:
    def test_the_expectation_over_the_rows_is_the_value(self):
        kind = Values(2, (3.0, -1.0), (2.0, 0.5))
        y = torch.stack([torch.linspace(-2.9, 8.9, 50), torch.linspace(-2.4, 0.4, 50)], 1)
        rows = kind.one_hot(y).unflatten(-1, (2, ROWS))
        assert torch.allclose(rows.sum(-1), torch.ones(50, 2))
        assert ((rows > 0).sum(-1) <= 2).all()
        assert torch.allclose(kind.unscaled(rows @ centres(rows)), y, atol=1e-5)

    def test_scores_that_are_the_logs_of_the_rows_predict_the_value(self):
        kind, y = Values(1), torch.tensor([[0.3], [-2.2]])
        assert torch.allclose(kind.probabilities(kind.as_logits(kind.one_hot(y).log())), y, atol=1e-6)

    def test_a_value_on_a_row_has_that_row_alone_and_one_beyond_has_the_last(self):
        kind = Values(1)
        assert kind.one_hot(torch.tensor([[REACH], [REACH + 5], [-REACH]])).argmax(-1).tolist() == [ROWS - 1] * 2 + [0]
        assert kind.one_hot(torch.tensor([[REACH + 5]])).sum() == 1

    def test_measures_are_those_of_the_definitions(self):
        y, answers = torch.randn(20, 2) * 3 + 7, torch.randn(20, 2)
        kind = Values.of(y)
        found = kind.figures(kind.measure(answers, y))
        error = kind.unscaled(answers) - y
        assert found["rmse"] == pytest.approx(error.square().mean(0).sqrt().mean().item(), rel=1e-5)
        assert found["mae"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
        r2 = 1 - error.square().sum(0) / (y - y.mean(0)).square().sum(0)
        assert found["r2"] == pytest.approx(r2.mean().item(), rel=1e-4)

    def test_mean_and_deviation_are_of_the_values_that_are_known(self):
        kind = Values.of(torch.tensor([[1.0, 5.0], [3.0, math.nan], [5.0, 5.0]]))
        assert kind.mean == (3.0, 5.0)
        assert kind.std == pytest.approx(((8 / 3) ** 0.5, 1.0))

    def test_one_value_may_be_a_column_or_not_and_whole_or_not(self):
        y = torch.tensor([1, 0, 2, -1, 0, 0, 1, 2])
        asked = {"values": 1}
        one = after(network(1, **asked), (X, y.float().unsqueeze(1)))
        assert close(one, after(network(1, **asked), (X, y)))

    def test_an_unknown_value_is_left_out_of_losses_and_measures(self):
        y, kept = X[:, :1].clone(), torch.arange(8) != 3
        y[3] = math.nan
        asked = {"values": 1}
        assert close(after(network(1, **asked), (X, y)), after(network(1, **asked), (X[kept], y[kept])))
        net = network(1, **asked)
        one, other = (evaluate(net, batch).measured for batch in ([(X, y)], [(X[kept], y[kept])]))
        assert all(one[name] == pytest.approx(other[name], rel=1e-5) for name in ("rmse", "mae", "r2"))

    def test_predictions_of_every_block_are_in_the_units_of_the_target(self):
        y = 1000 + 50 * X[:, :1]
        net = network(1, values=Values.of(y))
        found = net.predict(X)
        assert torch.allclose(found.values, net.targets.unscaled(net(X)))
        for each in (*found.blocks, found.combined):
            assert (each.values - 1000).abs().max() < 300
        with pytest.raises(InputError, match=r"read \.values"):
            _ = found.label
        with pytest.raises(InputError, match=r"read \.label"):
            _ = network().predict(X).values

    def test_records_say_what_is_measured(self):
        net, y = network(1, values=1), X[:, :1]
        (record,) = bl.Trainer(net, epochs=1).fit([(X, y)], [(X, y)])
        for name in ("rmse", "mae", "r2"):
            assert len(record[f"train_{name}"]) == len(record[f"validation_{name}"]) == 3
        assert record["validation_rmse"] == evaluate(net, [(X, y)]).measured["rmse"]
        assert not any("top1" in name for name in record)

    def test_blocks_learn_values_from_their_own_losses(self):
        x = torch.rand(512, 6)
        y = (6 * x[:, 0]).sin() + 2 * x[:, 1] * x[:, 2]

        def r2(rule: str) -> list:
            net = network(1, values=Values.of(y), readout=1, width=32, optimizer=bl.adam(lr=0.01), rule=rule)
            for _ in range(300):
                net.step(x, y)
            return evaluate(net, [(x, y)]).measured["r2"]

        found = r2("block-local")
        assert min(found[:-1]) > 0.8
        assert found[-1] > r2("frozen")[-1]

    @pytest.mark.parametrize(
        ("settings", "y", "message"),
        [
            ({"values": 2}, X[:, :1], r"must have the shape \[batch, 2\], not \[8, 1\]"),
            ({"values": 2}, X[:, :2] / 0, "infinite"),
            ({"values": 2}, X[:, :2] * 1e6 + 1e6, r"Give values=Values\.of\(y\)"),
            ({"values": 2}, X[:, :2] > 0, "must be numbers, not torch.bool"),
            ({"values": 2, "label_smoothing": 0.1}, X[:, :2], "label_smoothing"),
            ({"values": 0}, X, "values must be"),
            ({"values": 3}, X[:, :3], "end the model with a layer of 3 outputs, or give values=2"),
            ({"values": 2, "class_weights": [1, 2]}, X, "class_weights= goes with classes="),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, settings, y, message):
        with pytest.raises(InputError, match=message):
            network(2, **settings).step(X, y)

    def test_mean_and_deviation_must_fit(self):
        with pytest.raises(InputError, match="std must be 2 finite numbers, above 0"):
            Values(2, (0.0, 0.0), (1.0, 0.0))
        with pytest.raises(InputError, match="not known"):
            Values.of(torch.tensor([[1.0, math.nan], [2.0, math.nan]]))


# --- pixels


class Flattened(nn.Module):
    """Maps [B, C, H, W] → sequences [B, H·W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class TestPixels:
    def test_they_learn_as_the_same_positions_of_a_sequence_do(self):
        torch.manual_seed(1)
        plan = [nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU()), nn.Conv2d(4, 3, 1)]
        maps = BlockLocal(
            split(copy.deepcopy(nn.Sequential(*plan)), at=["1"]), classes=3, example=MAPS[:2], readout=0, twin="dense"
        )
        first, last = copy.deepcopy(plan)
        rows = BlockLocal(
            split(nn.Sequential(first, nn.Sequential(last, Flattened())), at=["1"]),
            classes=3, example=MAPS[:2], readout=0, twin="dense",
        )  # fmt: skip
        assert rows.output_shape(MAPS) == (64, 3)
        for _ in range(3):
            one, other = maps.step(MAPS, PIXELS), rows.step(MAPS, PIXELS.flatten(1))
            assert all(torch.isclose(a.loss, b.loss) for a, b in zip(one, other, strict=True))
        ends = [[p for learner in net.learners for p in learner.parameters()] for net in (maps, rows)]
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*ends, strict=True))

    def test_pixels_without_a_target_change_nothing(self):
        ignored = PIXELS.clone()
        ignored[:, 2:4, 1:3] = -100
        weight = (ignored != -100).float()
        assert close(after(segmenting(), (MAPS, ignored)), after(segmenting(), (MAPS, PIXELS, weight)))

    def test_a_coarse_block_is_asked_for_the_shares_of_the_classes_in_each_area(self):
        y = torch.zeros(1, 4, 4, dtype=torch.long)
        y[0, 0, 0], y[0, 2:, 2:] = 1, 2
        y[0, 2, 2] = -100
        shares = Classes(3).at(y, torch.Size((2, 2)))
        expected = [[0.75, 0.25, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0.75]]
        assert torch.allclose(shares, torch.tensor([expected]))
        assert torch.equal(Classes(3).at(y, torch.Size((4, 4))).values, y.flatten(1))
        assert torch.allclose(Classes(3).at(y, torch.Size(())).sum(), torch.tensor(15 / 16))
        assert Classes(3).at(y, torch.Size((4,))).shape == (1, 4, 3)

    @pytest.mark.parametrize("readout", [0, 1])
    def test_every_block_answers_in_the_resolution_of_the_output(self, readout):
        net = segmenting(readout=readout)
        found = net.predict(MAPS)
        for each in (found, *found.blocks, found.combined):
            assert each.probabilities.shape == (4, 3, 8, 8)
            assert each.label.shape == each.confidence.shape == (4, 8, 8)

    def test_accuracy_and_mean_iou_are_those_of_the_definitions(self):
        net, wanted = segmenting(), PIXELS.clone()
        wanted[0] = -100
        found = evaluate(net, [(MAPS[:2], wanted[:2]), (MAPS[2:], wanted[2:])])
        said, there = net.predict(MAPS).label, wanted != -100
        right = (said == wanted) & there
        each = [
            (right & (wanted == c)).sum() / (((said == c) | (wanted == c)) & there).sum()
            for c in range(3) if (((said == c) | (wanted == c)) & there).any()
        ]  # fmt: skip
        assert found.top1 == pytest.approx(100 * (right.sum() / there.sum()).item())
        assert found.measured["mean_iou"][-1] == pytest.approx(100 * torch.stack(each).mean().item())
        loss = F.cross_entropy(net(MAPS), wanted, ignore_index=-100)
        assert found.nll == pytest.approx(loss.item(), rel=1e-5)

    @pytest.mark.parametrize("way", learned({}), ids=NAMES)
    def test_every_rule_learns_them_or_says_why_not(self, way):
        net = segmenting(**way)
        if way.get("rule") == "direct-feedback-alignment":
            with pytest.raises(InputError, match="every pixel has one"):
                net.step(MAPS, PIXELS)
            return
        net.configure(bl.sgd(lr=0.01))
        losses = [net.step(MAPS, PIXELS)[-1].loss for _ in range(5)]
        assert losses[-1] < losses[0]

    def test_soft_targets_that_are_one_hot_equal_hard_ones(self):
        soft = F.one_hot(PIXELS, 3).float().movedim(-1, 1)
        assert close(after(segmenting(), (MAPS, soft)), after(segmenting(), (MAPS, PIXELS)))

    def test_targets_of_another_size_are_refused(self):
        with pytest.raises(InputError, match=r"targets of shape \[4, 4, 4\] do not fit"):
            segmenting().step(MAPS, PIXELS[:, ::2, ::2])
        with pytest.raises(InputError, match=r"give classes=3"):
            BlockLocal(split(conv(), blocks=3), classes=5, example=MAPS[:2])


# --- losses and metrics of one's own


class TestOwnLoss:
    def test_cross_entropy_by_hand_equals_the_usual_loss(self):
        own = network(output_loss=lambda output, y: F.cross_entropy(output, y))
        assert close(after(own, (X, Y)), after(network(), (X, Y)))

    @pytest.mark.parametrize(
        "rule", ["backprop", "frozen", "greedy", "direct-feedback-alignment", "feedback-alignment"]
    )
    def test_it_is_the_loss_of_the_last_block_under_every_rule(self, rule):
        own = network(rule=rule, output_loss=lambda output, y: 2 * F.cross_entropy(output, y))
        assert torch.isclose(own.step(X, Y)[-1].loss, 2 * network(rule=rule).step(X, Y)[-1].loss)

    def test_hidden_blocks_read_their_targets_off_any_y(self):
        def loss(output, y):
            return F.mse_loss(output, y["scores"])

        y = {"scores": torch.randn(8, 5), "class": Y}
        net = network(5, output_loss=loss, targets=lambda y: y["class"])
        plain = network(3)
        for _ in range(3):
            hidden, usual = net.step(X, y)[:-1], plain.step(X, Y)[:-1]
            assert all(torch.equal(a.loss, b.loss) for a, b in zip(hidden, usual, strict=True))
        records = bl.Trainer(net, epochs=1).fit([(X, y)], [(X, y)])
        assert records[0]["validation_top1"][-1] is None  # five numbers are no answer to three classes
        assert records[0]["validation_top1"][0] is not None
        assert evaluate(net, [(X, y)], metrics={"mse": loss}).metrics["mse"] == pytest.approx(loss(net(X), y).item())
        with pytest.raises(InputError, match="output_loss= alone"):
            net.predict(X)

    def test_the_output_may_be_a_picture_while_hidden_blocks_are_asked_for_a_class(self):
        """The output has three channels and there are five classes."""
        wanted = torch.randn(4, 3, 8, 8)
        label = torch.tensor([0, 4, 2, 1])

        def loss(output, y):
            return F.mse_loss(output, y[0])

        net = BlockLocal(
            split(conv(), blocks=3), classes=5, example=MAPS[:2], output_loss=loss, targets=lambda y: y[1], readout=0
        )
        expected = loss(net(MAPS), (wanted, label))
        assert torch.isclose(net.step(MAPS, (wanted, label))[-1].loss, expected)
        found = evaluate(net, [(MAPS, (wanted, label))])
        assert found.top1 is None
        assert found.block_top1[-1] is None
        assert all(top1 is not None for top1 in found.block_top1[:-1])

    def test_what_is_no_loss_is_refused(self):
        with pytest.raises(InputError, match="must give one number"):
            network(output_loss=lambda output, y: output).step(X, Y)
        with pytest.raises(InputError, match="must be a function"):
            network(output_loss="mse")
        with pytest.raises(InputError, match=r"need one tensor of targets: give targets="):
            network().step(X, {"a": Y})


class Counting:
    """As a metric of torchmetrics: samples seen since the reset."""

    def __init__(self):
        self.seen = 99

    def reset(self):
        self.seen = 0

    def update(self, output, y):
        self.seen += len(output)

    def compute(self):
        return torch.tensor(float(self.seen))


def test_own_metrics_are_in_records_and_evaluations():
    def share_of_zeros(output, y):
        return (y == 0).float().mean()

    metrics = {"zeros": share_of_zeros, "seen": Counting()}
    net = network()
    records = bl.Trainer(net, epochs=2, metrics=metrics).fit([(X, Y)], [(X[:6], Y[:6]), (X[6:], Y[6:])])
    assert records[-1]["metrics"] == {"zeros": pytest.approx(0.25), "seen": 8.0}
    assert evaluate(net, [(X, Y)], metrics=metrics).metrics == {"zeros": 0.25, "seen": 8.0}
    with pytest.raises(InputError, match=r"the metric .*must be a function"):
        bl.Trainer(net, metrics={"x": 3})
    with pytest.raises(InputError, match="'whole' must give one number"):
        evaluate(net, [(X, Y)], metrics={"whole": lambda output, y: output})


# --- what is refused


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(8, 2), r"weights of shape \[8, 2\] do not fit targets of shape \[8\]"),
        (-torch.ones(8), "0 or more"),
        (torch.full((8,), math.nan), "finite"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weight, message):
    with pytest.raises(InputError, match=message):
        network().step(X, Y, weight)


def test_class_weights_that_make_no_sense_are_refused():
    for weights, message in (
        ([1, 2], "3 finite numbers"),
        ([1, -1, 1], "0 or more"),
        ("balanced", r"balanced\(y_train"),
    ):
        with pytest.raises(InputError, match=message):
            network(class_weights=weights)


def test_a_target_is_cut_and_moved_as_a_tensor_is():
    target = Target({"a": X, "b": Y}, torch.ones(8), Y)
    part = target[:3].to("cpu")
    assert (len(part), part.shape, part.weight.shape, part.y["a"].shape) == (3, (3,), (3,), (3, 6))
