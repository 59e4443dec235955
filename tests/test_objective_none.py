"""The objective none: no messages; hidden blocks learn from reconstruction or similarity alone (LoPT for decoders)."""

import pytest
import torch
import torch.nn.functional as F

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.models.decoder import Decoder

WORDS, LENGTH = 12, 6
X = torch.randint(0, WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(0))
Y = X.roll(-1, 1)
LOPT = {"objective": "none", "reconstruction": 10.0, "reconstruct": "input"}


def network(blocks: int = 2, **settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = Decoder(WORDS, LENGTH, width=16, layers=4, heads=2)
    given = {**LOPT, "optimizer": bl.adamw(1e-2), **settings}
    return bl.BlockLocal(bl.split(model, blocks), tokens=WORDS, example=X, **given)


def test_a_hidden_block_predicts_what_it_has_read_and_nothing_else():
    net = network(4).train()
    a = X
    for k, learner in enumerate(net.learners[:-1]):
        assert learner.twin is None
        assert learner.local.readout is None
        read = learner.block.layer1.embed_tokens(X) if k == 0 else a
        with torch.no_grad():
            made = learner(a)
            decoder = learner.local.decoders["input"]
            expected = 10 * F.mse_loss(decoder(made), read)
        losses = network(4).step(X, Y)
        torch.testing.assert_close(losses[k].loss, expected)
        assert list(losses[k].parts) == ["input"]
        a = made.detach()


def test_the_decoder_is_the_same_at_every_position():
    decoder = network().learners[0].local.decoders["input"]
    h = torch.randn(2, LENGTH, 16)
    torch.testing.assert_close(decoder(h)[:, 2:3], decoder(h[:, 2:3]))


def test_hidden_blocks_learn_and_only_the_output_predicts():
    net = network()
    before = [p.clone() for p in net.learners[0].block.parameters()]
    first = net.step(X, Y)[0].loss
    for _ in range(30):
        last = net.step(X, Y)[0].loss
    assert last < first / 2
    assert any(not torch.equal(a, b) for a, b in zip(before, net.learners[0].block.parameters(), strict=True))
    assert net.block_logits(X)[0] is None
    found = bl.evaluate(net, [(X, Y)])
    assert found.measured["perplexity"][0] is None
    assert found.measured["perplexity"][1] > 1


def test_it_is_the_same_one_block_at_a_time(tmp_path):
    whole = network()
    for _ in range(4):
        whole.step(X, Y)
    streamed = bl.Streamed(network, visit=2, store=tmp_path)
    for _ in streamed.walk([(X, Y)] * 4):
        pass
    for k, expected in enumerate(whole.learners):
        found = streamed.stock.fetch(k).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())


def test_it_works_for_images_with_similarity_alone():
    model = bl.build_model("mlp", classes=3, channels=1, image_size=(4, 4), width=8)
    x, y = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    net = bl.BlockLocal(bl.split(model, 2), classes=3, example=x, objective="none", similarity=1.0)
    assert list(net.step(x, y)[0].parts) == ["similarity"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reconstruction": 0.0}, "objective='none' leaves hidden blocks to their auxiliary losses, and none is on"),
        ({"reconstruct": "image"}, "the network reads tokens: give reconstruct='input'"),
    ],
)
def test_what_leaves_nothing_to_learn_from_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        network(**settings)
