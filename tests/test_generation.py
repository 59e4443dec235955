"""Generation. Oracles: the network's own logits, position by position; the draw written out."""

from __future__ import annotations

import pytest
import torch

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.cli import main
from blocklocal.models.decoder import Decoder
from blocklocal.network.generation import Sampling, generate

WORDS, LENGTH = 20, 6


def network(**settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = Decoder(WORDS, LENGTH, width=16, layers=3, heads=2)
    x = torch.randint(0, WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    net = bl.BlockLocal(bl.split(model, 3), tokens=WORDS, example=x, readout=1, optimizer=bl.adamw(3e-2), **settings)
    for _ in range(20):
        net.step(x, x.roll(-1, 1))
    return net


@pytest.fixture(scope="module")
def net() -> bl.BlockLocal:
    return network()


def made(net, start, **settings):
    return list(generate(net, start, Sampling(**{"tokens": 8, **settings}), length=LENGTH))


def logits(net, block, seen):
    """Of the next token, from a block counted from 1, as the network itself gives them."""
    net.eval()
    return net.block_logits(torch.tensor([seen[-LENGTH:]]))[block - 1][0, -1]


@pytest.mark.parametrize("block", [1, 2, 3])
def test_at_temperature_0_every_token_is_the_most_probable_of_the_block_that_is_asked(net, block):
    seen = [3, 5]
    for found in made(net, seen, temperature=0, exit=block):
        expected = logits(net, block, seen)
        assert found.token == int(expected.argmax())
        assert found.block == block
        assert found.confidence == pytest.approx(expected.softmax(-1).max().item(), rel=1e-4)
        seen.append(found.token)
    assert len(seen) == 10


@pytest.mark.parametrize("temperature", [1e-40, 1e-320])
def test_the_smallest_temperatures_take_the_most_probable_token(net, temperature):
    expected = [found.token for found in made(net, [3], temperature=0)]
    assert [found.token for found in made(net, [3], temperature=temperature)] == expected


def test_what_cannot_be_is_refused_before_the_first_token_is_asked_for(net):
    with pytest.raises(InputError, match="no block 4"):
        generate(net, [3], Sampling(exit=4), length=LENGTH)


def test_a_token_is_from_the_first_block_that_is_sure_of_it(net):
    seen, sure = [3], 0.5
    blocks = set()
    for found in made(net, seen, temperature=0, sure=sure):
        shares = [logits(net, block, seen).softmax(-1).max().item() for block in (1, 2, 3)]
        expected = next((block for block, share in enumerate(shares, 1) if share >= sure), 3)
        assert found.block == expected
        blocks.add(found.block)
        seen.append(found.token)


def test_blocks_behind_the_exit_do_not_run(net, monkeypatch):
    monkeypatch.setattr(net.learners[1], "forward", lambda *_: pytest.fail("block 2 ran"))
    assert len(made(net, [1], exit=1)) == 8


def test_the_draw_depends_on_the_seed_alone_and_follows_the_probabilities(net):
    assert made(net, [1], seed=3) == made(net, [1], seed=3)
    assert made(net, [1], seed=3, temperature=3.0) != made(net, [1], seed=4, temperature=3.0)
    shares = (logits(net, 3, [1]) / 2).softmax(-1)
    drawn = torch.zeros(WORDS)
    for seed in range(400):
        drawn[made(net, [1], seed=seed, tokens=1, temperature=2.0)[0].token] += 1
    assert (drawn / 400 - shares).abs().max() < 0.1


def test_top_p_draws_from_the_fewest_tokens_that_have_so_much_together(net):
    shares, places = logits(net, 3, [1]).softmax(-1).sort(descending=True)
    count = int((shares.cumsum(0) < 0.6).sum()) + 1
    allowed = set(places[:count].tolist())
    found = {made(net, [1], seed=seed, tokens=1, top_p=0.6)[0].token for seed in range(60)}
    assert found <= allowed
    assert made(net, [1], top_p=1e-9) == made(net, [1], temperature=0)


def test_the_end_of_a_text_ends_it_and_is_not_given(net):
    first = made(net, [3], temperature=0)[0].token
    assert list(generate(net, [3], Sampling(temperature=0), length=LENGTH, end=first)) == []


def test_modes_and_weights_stay_as_they_are(net):
    net.train()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    made(net, [1])
    assert all(part.training for part in net.modules())
    assert all(torch.equal(before[name], p) for name, p in net.state_dict().items())


@pytest.mark.parametrize(
    ("start", "settings", "said"),
    [
        ([], {}, "there is no token to begin with"),
        ([WORDS], {}, f"token {WORDS} is none of the {WORDS}"),
        ([1], {"exit": 4}, "there is no block 4 to exit at: the network has 3"),
    ],
)
def test_what_cannot_be_is_refused(net, start, settings, said):
    with pytest.raises(InputError, match=said):
        made(net, start, **settings)


@pytest.mark.parametrize("settings", [{"exit": 1, "sure": 0.5}, {"temperature": -1}, {"top_p": 0}, {"tokens": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError):
        Sampling(**settings)


def test_a_block_that_does_not_predict_is_refused_and_passed_over():
    frozen = network(rule="frozen")
    with pytest.raises(InputError, match="block 1 does not predict under the rule frozen"):
        made(frozen, [1], exit=1)
    assert {found.block for found in made(frozen, [1], sure=1e-9)} == {3}


def test_the_command_goes_on_from_a_prompt_and_says_which_blocks_gave_tokens(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for i in range(40):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Text number {i} für alle. " * 9)
    size = ["--vocabulary", "270", "--length", "8", "--width", "16", "--model-options", "layers", "2", "--blocks", "2"]
    run = ["--epochs", "1", "--train-size", "16", "--batch-size", "8", "--no-tensorboard", "--output", "run"]
    assert main(["train", "--data", "texts", *size, *run]) == 0
    capsys.readouterr()
    assert main(["generate", "run", "Text", "--tokens", "12", "--seed", "1"]) == 0
    one = capsys.readouterr()
    assert one.out.startswith("Text")
    assert not one.err
    assert main(["generate", "run", "Text", "--tokens", "12", "--seed", "1", "--sure", "0.0001"]) == 0
    assert "tokens from block 1: 12" in capsys.readouterr().err
    assert main(["predict", "run", "texts/0.txt"]) == 2
    assert "was trained on a text: blocklocal generate makes one" in capsys.readouterr().err
    assert main(["generate", "run", "Text", "--exit", "7"]) == 2
    refused = capsys.readouterr()
    assert refused.err.startswith("error: there is no block 7")
    assert not refused.out  # the prompt is not shown before it is refused
    assert main(["train", "--data", "digits", "--model", "mlp", "--width", "4", "--epochs", "1", "--output", "d"]) == 0
    assert main(["generate", "d", "x"]) == 2
    assert "was trained on images, and text is made by one trained on text" in capsys.readouterr().err
