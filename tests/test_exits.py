"""Early exit. Oracle: what every block says in an ordinary prediction, of all samples."""

import pytest
import torch
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal._common.message import Message
from blocklocal.network.exits import Exits

B, T, C = 24, 5, 4


def trained(net: bl.BlockLocal, x, y) -> bl.BlockLocal:
    for _ in range(6):
        net.step(x, y)
    return net


def classes() -> tuple[bl.BlockLocal, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(6, 6), nn.ReLU())), nn.Linear(6, C))
    x = torch.randn(B, 6)
    return trained(bl.BlockLocal(bl.split(model, 4), classes=C, example=x, readout=1), x, x[:, :C].argmax(1)), x


def sequences() -> tuple[bl.BlockLocal, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randint(0, C, (B, T))
    model = nn.Sequential(nn.Embedding(C, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, C))
    return trained(bl.BlockLocal(bl.split(model, at=["3", "5"]), tokens=C, example=x, readout=0), x, (x + 1) % C), x


def labels() -> tuple[bl.BlockLocal, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(B, 6)
    return trained(bl.BlockLocal(bl.split(model, 3), labels=3, example=x, readout=0), x, (x[:, :3] > 0).float()), x


KINDS = pytest.mark.parametrize("make", [classes, sequences, labels])


def middle(prediction: bl.Prediction) -> float:
    """A confidence that some answers of the first block have, and some have not."""
    return prediction.blocks[0].confidence.median().item()


def oracle(net: bl.BlockLocal, x: torch.Tensor, exits: Exits) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities, block) of every answer, of blocks that all see all samples."""
    logits = [net.targets.as_logits(each).float() for each in net.eval().block_logits(x)]
    net.train()
    said = []
    for k in range(len(logits)):
        t = exits.temperatures[k] if exits.temperatures else 1.0
        if exits.by == "together":
            asked = [each for j, each in enumerate(logits[: k + 1]) if exits.asks(j)]
            t = exits.together[k] if exits.together else 1.0
            said.append(net.targets.probabilities(torch.stack(asked).mean(0) / t if asked else logits[k]))
        else:
            said.append(net.targets.probabilities(logits[k] / t))
    found, block = said[-1].clone(), torch.full_like(net.targets.label(said[-1]), len(said))
    for k in reversed(range(len(said) - 1)):
        if not exits.asks(k):
            continue
        enough = net.targets.confidence(said[k]) >= exits.thresholds[k]
        if exits.by == "agreement":
            before = [j for j in range(k) if exits.asks(j)]
            same = net.targets.label(said[k]) == net.targets.label(said[before[-1]]) if before else torch.tensor(False)
            enough &= same
        wide = enough if enough.dim() == found.dim() else enough.unsqueeze(-1)
        found, block = torch.where(wide, said[k], found), torch.where(enough, k + 1, block)
    return found, block


@KINDS
@pytest.mark.parametrize("by", ["confidence", "together", "agreement"])
@pytest.mark.parametrize("skipped", [False, True])
def test_each_answer_is_that_of_the_first_block_that_is_sure(make, by, skipped):
    net, x = make()
    t, count = middle(net.predict(x)), len(net.learners)
    thresholds = ((None, t) if skipped else (t, t)) + (t,) * (count - 3)
    warm = tuple(0.5 + 0.3 * k for k in range(count))
    for temperatures in ((), warm):
        exits = Exits(thresholds, by, temperatures, temperatures)
        probabilities, block = oracle(net, x, exits)
        found = net.predict(x, exits)
        assert torch.equal(found.block, block)
        torch.testing.assert_close(found.probabilities, probabilities)
    if by != "agreement" and not skipped:
        assert len(block.unique()) > 1  # some leave early, some do not


@KINDS
def test_a_block_runs_for_the_samples_that_are_not_decided_and_no_others(make):
    net, x = make()
    exits, seen = Exits((middle(net.predict(x)),) * (len(net.learners) - 1)), []
    for learner in net.learners:
        learner.block.register_forward_hook(lambda _m, given, _a: seen.append(len(given[0])))
    found = net.predict(x, exits)
    left = found.block if found.block.dim() == 1 else found.block.amax(1)  # the last of a sample's answers
    expected = [int((left > k).sum()) for k in range(len(net.learners))]
    assert list(found.ran) == expected
    assert seen == [each for each in expected if each]
    assert expected[1] < B


@KINDS
def test_without_thresholds_it_is_the_ordinary_prediction_and_batches_do_not_matter(make):
    net, x = make()
    whole = net.predict(x)
    never = net.predict(x, Exits((None,) * (len(net.learners) - 1)))
    assert torch.equal(never.probabilities, whole.probabilities)
    assert bool((never.block == len(net.learners)).all())
    exits = Exits((middle(whole),) * (len(net.learners) - 1))
    together = net.predict(x, exits)
    alone = [net.predict(x[i : i + 1], exits) for i in range(B)]
    assert torch.equal(torch.cat([each.block for each in alone]), together.block)
    torch.testing.assert_close(torch.cat([each.probabilities for each in alone]), together.probabilities)


class Masked(nn.Module):
    """Positions behind the first three of a sample are padding."""

    def __init__(self):
        super().__init__()
        self.embed, self.linear = nn.Embedding(C, 6), nn.Linear(6, 6)

    def forward(self, x):
        mask = torch.ones(x.shape, dtype=torch.bool)
        mask[:, 3:] = False
        return Message(self.linear(self.embed(x)).relu(), {"ids": x, "constant": torch.arange(7.0)}, mask)


class Rest(nn.Module):
    def __init__(self, units: int, last: bool = False):
        super().__init__()
        self.linear, self.last = nn.Linear(6, units), last

    def forward(self, message):
        assert len(message.beside["ids"]) == len(message.hidden)
        assert len(message.beside["constant"]) == 7
        made = self.linear(message.hidden)
        return made if self.last else Message(made.relu(), message.beside, message.mask)


def test_messages_of_several_tensors_lose_the_same_samples_and_nothing_waits_for_padding():
    torch.manual_seed(0)
    x = torch.randint(0, C, (B, T))
    model = nn.Sequential(Masked(), Rest(6), Rest(C, last=True))
    net = trained(bl.BlockLocal(bl.split(model, 3), tokens=C, example=x, readout=0), x, (x + 1) % C)
    t = net.predict(x).blocks[0].confidence[:, :3].median().item()
    found = net.predict(x, Exits((t, t)))
    _, block = oracle(net, x, Exits((t, t)))
    assert torch.equal(found.block[:, :3], block[:, :3])
    assert found.ran[1] == int((block[:, :3] > 1).any(1).sum())


class Pooled(nn.Module):
    """The last block: labels of the whole sequence."""

    def __init__(self, count: int):
        super().__init__()
        self.linear = nn.Linear(6, count)

    def forward(self, message):
        return self.linear(message.hidden.mean(1))


@pytest.mark.parametrize("count", [2, T])
def test_labels_of_a_masked_sequence_are_all_waited_for(count):
    torch.manual_seed(0)
    x = torch.randint(0, C, (B, T))
    net = bl.BlockLocal(
        bl.split(nn.Sequential(Masked(), Rest(6), Pooled(count)), 3), labels=count, example=x, readout=0
    )
    t = net.predict(x).blocks[0].confidence.median().item()
    found = net.predict(x, Exits((t, t)))
    _, block = oracle(net, x, Exits((t, t)))
    assert torch.equal(found.block, block)


def test_a_network_trained_as_one_has_one_exit():
    torch.manual_seed(0)
    x = torch.randn(B, 6)
    net = bl.BlockLocal(bl.split(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, C)), 2), classes=C, example=x,
                        rule="backprop")  # fmt: skip
    assert torch.equal(net.predict(x, Exits(())).probabilities, net.predict(x).probabilities)


def test_what_cannot_be_is_refused():
    net, x = classes()
    with pytest.raises(InputError, match="exit= takes Exits"):
        net.predict(x, 0.5)
    for given, said in [
        (((True, 0.5, 0.5),), "a threshold is"),
        (((0.5,),), "exits with 1 thresholds are for 2 blocks, and the network has 4"),
        (((0.5, 0.5, 1.5),), "a threshold is from 0 to 1"),
        (((0.5,) * 3, "guess"), "unknown exit rule"),
        (((0.5,) * 3, "confidence", (1.0, 0.0, 1.0, 1.0)), "a temperature must be a finite number above 0, not 0"),
        (((0.5,) * 3, "confidence", (1.0,)), "one temperature per block"),
    ]:
        with pytest.raises(InputError, match=said):
            net.predict(x, Exits(*given))
    values = bl.BlockLocal(bl.split(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)), 2), values=1, example=x)
    with pytest.raises(InputError, match="early exit needs classes, labels or tokens"):
        values.predict(x, Exits((0.5,)))
    pixels = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, C, 1))
    image = torch.randn(2, 1, 6, 6)
    with pytest.raises(InputError, match="pixels are not made for it"):
        bl.BlockLocal(bl.split(pixels, 2), classes=C, example=image).predict(image, Exits((0.5,)))
