"""Low-rank adapters in models of transformers: what trains, and what an export holds. Oracle: transformers."""

import json

import pytest
import torch

from blocklocal.cli import main

transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself
SIZE = ["--vocabulary", "270", "--length", "8", "--blocks", "2", "--batch-size", "8", "--train-size", "24"]
SHORT = ["--epochs", "1", "--no-tensorboard", "--quiet"]
MODELS = {
    "llama": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
              "intermediate_size": 16, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_adapters_alone_train_and_an_export_is_a_plain_model_again(texts, kind):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=300, **MODELS[kind])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(texts / "base")
    command = ["train", "--data", "texts", "--model", "hf:base", "--pretrained", "--lora", "2", "--lr", "0.02"]
    assert main([*command, *SIZE, *SHORT, "--output", "run"]) == 0
    assert main(["generate", "run", "Text", "--tokens", "3"]) == 0
    assert main(["export", "run", "--to", "exported"]) == 0
    base, tuned = (transformers.AutoModelForCausalLM.from_pretrained(texts / each) for each in ("base", "exported"))
    assert type(tuned) is type(base)
    assert not any("lora" in name for name, _ in tuned.named_parameters())
    before = dict(base.named_parameters())
    for name, p in tuned.named_parameters():
        if (".layers." in name or ".h." in name) and name.endswith("weight"):
            changed = not torch.equal(p, before[name])
            assert changed == (p.dim() == 2), name  # a linear layer of every block, and no norm
            if changed:
                assert torch.linalg.matrix_rank(p - before[name], tol=1e-5) <= 2, name
    embedding, head = tuned.get_input_embeddings().weight, tuned.get_output_embeddings().weight
    assert torch.equal(embedding, base.get_input_embeddings().weight)
    assert torch.equal(head, base.get_output_embeddings().weight)


def test_an_export_predicts_as_the_run_does(texts):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=300, **MODELS["llama"])
    transformers.LlamaForCausalLM(config).save_pretrained(texts / "base")
    command = ["train", "--data", "texts", "--model", "hf:base", "--pretrained", *SIZE, *SHORT]
    assert main([*command, "--lora", "2", "--lr", "0.05", "--output", "run"]) == 0
    assert main(["export", "run", "--to", "exported"]) == 0
    again = ["train", "--data", "texts", "--model", "hf:exported", "--pretrained", *SIZE, *SHORT, "--lr", "1e-9"]
    assert main([*again, "--output", "second"]) == 0
    found = [json.loads((texts / name / "summary.json").read_text()) for name in ("run", "second")]
    assert found[1]["test_perplexity"] == pytest.approx(found[0]["test_perplexity"], rel=1e-4)


def test_an_image_classifiers_new_head_trains_beside_the_adapters():
    from blocklocal.adapters import add_lora, build_named

    options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = build_named("hf:vit", classes=3, channels=1, image_size=(16, 16), **options, patch_size=8)
    add_lora(model, 2)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {"classifier.weight", "classifier.bias"} <= set(trained)
    assert all("lora_" in name or name.startswith("classifier.") for name in trained)


@pytest.mark.parametrize("given", [[], ["--model", "hf:llama"]], ids=["a model of the library", "no trained weights"])
def test_what_has_no_trained_weights_is_not_adapted(texts, capsys, given):
    assert main(["train", "--data", "texts", "--lora", "2", *given, *SIZE, *SHORT, "--output", "run"]) == 2
    assert "--lora adapts a trained model of transformers: give --model hf:FOLDER" in capsys.readouterr().err
