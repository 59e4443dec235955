"""Decoders of other libraries: written for transformers, read from it, and trained by name. Oracle: transformers."""

import json

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal.cli import main
from blocklocal.models.decoder import Decoder
from blocklocal.models.llama import load_llama, save_llama

transformers = pytest.importorskip("transformers")
WORDS, LENGTH = 40, 12
X = torch.randint(0, WORDS, (2, LENGTH), generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself


def decoder(**settings) -> Decoder:
    torch.manual_seed(1)
    made = Decoder(WORDS, LENGTH, **{"width": 16, "layers": 2, "heads": 4, "kv_heads": 2, **settings})
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made.eval()


@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"theta": 777.0, "kv_heads": 4}])
def test_a_written_folder_predicts_the_same_in_transformers_and_here(tmp_path, settings):
    mine = decoder(**settings)
    save_llama(mine, tmp_path, end=3)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(X).logits, mine(X), rtol=1e-5, atol=1e-5)
        assert torch.equal(load_llama(tmp_path).eval()(X), mine(X))
    assert theirs.config.eos_token_id == 3


def test_a_folder_that_transformers_wrote_is_read(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, rope_theta=500.0,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load_llama(tmp_path).eval()(X), theirs(X).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "is of the type 'gpt2', and the decoder is of the type 'llama'"),
        ({"attention_bias": True}, "attention_bias is True, and the decoder has False: use --model hf:"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"hidden_size": 24}, "holds other weights than config.json says"),
    ],
)
def test_a_model_with_other_parts_is_refused(tmp_path, change, said):
    save_llama(decoder(), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=said):
        load_llama(tmp_path)


SIZE = ["--vocabulary", "270", "--length", "8", "--blocks", "2", "--batch-size", "8", "--train-size", "16"]
SHORT = ["--epochs", "1", "--no-tensorboard", "--quiet"]


def test_a_run_is_exported_for_transformers_and_goes_on_from_there_by_name(texts, capsys):
    small = ["--width", "16", "--model-options", "layers", "2"]
    assert main(["train", "--data", "texts", *SIZE, *small, *SHORT, "--output", "first"]) == 0
    assert main(["export", "first", "--to", "folder"]) == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(texts / "folder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(texts / "folder")
    ids = tokenizer("Text number", return_tensors="pt").input_ids
    assert model(ids).logits.shape == (1, ids.shape[1], 270)
    assert "AutoModelForCausalLM" in (texts / "folder" / "README.md").read_text()
    capsys.readouterr()
    command = ["train", "--data", "texts", "--model", "hf:folder", "--pretrained", *SIZE, *SHORT]
    assert main([*command, "--lr", "1e-9", "--output", "second"]) == 0
    capsys.readouterr()
    found = [json.loads((texts / name / "summary.json").read_text()) for name in ("first", "second")]
    assert found[1]["test_perplexity"] == pytest.approx(found[0]["test_perplexity"], rel=1e-4)  # it began as it ended
    assert main(["export", "second", "--to", "again"]) == 0
    card = (texts / "again" / "README.md").read_text()
    assert "# hf:folder on texts\n" in card
    assert str(texts) not in card  # others have no such folder
    assert "AutoModelForCausalLM" in card
    transformers.AutoModelForCausalLM.from_pretrained(texts / "again")
    assert (texts / "second" / "tokenizer.json").read_text() == (texts / "first" / "tokenizer.json").read_text()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("gpt2", ["n_embd", "16", "n_layer", "2", "n_head", "2", "bos_token_id", "0", "eos_token_id", "0"]),
     ("qwen2", ["hidden_size", "16", "num_hidden_layers", "2", "num_attention_heads", "2", "num_key_value_heads", "1",
                "intermediate_size", "16"])],
)  # fmt: skip
def test_causal_decoders_of_transformers_train_from_their_type(texts, kind, options):
    command = ["train", "--data", "texts", "--model", f"hf:{kind}", "--model-options", *options, *SIZE, *SHORT]
    assert main([*command, "--output", "run"]) == 0
    assert main(["generate", "run", "Text", "--tokens", "3"]) == 0


def test_a_model_that_takes_fewer_positions_or_tokens_is_refused(texts, capsys):
    options = ["--model-options", "hidden_size", "16", "num_hidden_layers", "2", "num_attention_heads", "2"]
    command = [
        "train",
        "--data",
        "texts",
        "--model",
        "hf:llama",
        *options,
        "max_position_embeddings",
        "4",
        *SIZE,
        *SHORT,
    ]
    assert main([*command, "--output", "run"]) == 2
    assert "takes 4 positions, and windows have 8: give --length 4" in capsys.readouterr().err
    save_llama(decoder(), texts)
    (texts / "model").mkdir()
    save_llama(decoder(), texts / "model")
    command = ["train", "--data", "texts", "--model", "hf:model", "--pretrained", *SIZE, *SHORT]
    assert main([*command, "--output", "run"]) == 2
    assert f"the tokenizer of the text has 270 tokens, and hf:model knows {WORDS}" in capsys.readouterr().err
