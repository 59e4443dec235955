"""The decoder. Oracle: transformers' Llama with the same weights; a changed token changes nothing before it."""

import pytest
import torch

from blocklocal import InputError, build_model, split
from blocklocal.models.decoder import Decoder

WORDS, LENGTH = 50, 12
X = torch.randint(0, WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(0))


def decoder(**settings) -> Decoder:
    torch.manual_seed(0)
    made = Decoder(WORDS, LENGTH, **{"width": 32, "layers": 3, "heads": 4, "kv_heads": 2, **settings})
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))  # far from where it starts, so that every part counts
    return made.eval()


@pytest.mark.parametrize("settings", [{}, {"kv_heads": 4}, {"heads": 1, "kv_heads": 1}, {"theta": 500.0, "hidden": 40}])
def test_it_is_the_llama_of_transformers(settings):
    transformers = pytest.importorskip("transformers")
    mine = decoder(**settings)
    attention = mine.layers[0].self_attn
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=mine.layers[0].mlp.up_proj.out_features,
        num_hidden_layers=3,
        num_attention_heads=attention.heads,
        num_key_value_heads=attention.kv_heads,
        rms_norm_eps=1e-6,
        max_position_embeddings=LENGTH,
        rope_theta=settings.get("theta", 10_000.0),
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    weights = mine.state_dict()
    theirs.load_state_dict({name if name.startswith("lm_head") else f"model.{name}": w for name, w in weights.items()})
    with torch.no_grad():
        torch.testing.assert_close(mine(X), theirs(X).logits, rtol=1e-5, atol=1e-5)


def test_a_token_changes_nothing_before_it():
    model, other = decoder(), X.clone()
    other[:, 7] = (other[:, 7] + 1) % WORDS
    with torch.no_grad():
        same = (model(X) == model(other)).all(-1)
    assert same[:, :7].all()
    assert not same[:, 7:].any()


@pytest.mark.parametrize("blocks", [2, 3])
def test_its_pieces_in_order_are_the_whole(blocks):
    model = decoder()
    a = X
    for block in split(model, blocks).blocks:
        a = block(a)
    assert torch.equal(a, model(X))


def test_tied_tables_are_one_weight_and_cannot_be_parted():
    model = decoder(tied=True)
    assert model.lm_head.weight is model.embed_tokens.weight
    assert sum(p.numel() for p in decoder().parameters()) - sum(p.numel() for p in model.parameters()) == WORDS * 32
    with pytest.raises(InputError, match=r"'embed_tokens'.* would belong to blocks 1 and 2"):
        split(model, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "width 32 gives 3 heads"),
        ({"heads": 32, "kv_heads": 1}, "1 units each, and rotary positions need an even"),
        ({"kv_heads": 3}, "4 heads cannot share 3 heads of keys"),
        ({"layers": 0}, "layers must be"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        decoder(**settings)


def test_a_longer_sequence_than_it_was_built_for_is_refused():
    with pytest.raises(InputError, match=f"sequences of 13 tokens, .* at most {LENGTH}"):
        decoder()(torch.zeros(1, LENGTH + 1, dtype=torch.long))


def test_it_is_built_by_name_for_windows_of_a_text():
    model = build_model("decoder", classes=WORDS, input_shape=(LENGTH,), tokens=True, width=16, layers=2)
    assert model(X).shape == (3, LENGTH, WORDS)
    with pytest.raises(InputError, match=r"decoder reads windows of a text \[T\], not samples of the shape \[12\]"):
        build_model("decoder", classes=WORDS, input_shape=(LENGTH,))
    with pytest.raises(InputError, match=r"mlp reads .*, not windows of a text \[T\]: .* decoder texts"):
        build_model("mlp", classes=WORDS, input_shape=(LENGTH,), tokens=True)
