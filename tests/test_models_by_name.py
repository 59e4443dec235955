"""Models of other libraries by name, weights that stay as they are, and adapters of peft."""

import json
from pathlib import Path

import pytest
import torch
from other_libraries import images, quiet_import
from safetensors.torch import save_model
from torch import nn

from blocklocal import BlockLocal, InputError, Streamed, split
from blocklocal.adapters import build_named
from blocklocal.cli import main
from blocklocal.splitting import freeze

torch.set_num_threads(1)
SIZES = {"classes": 5, "channels": 1, "image_size": (32, 32)}
TINY = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}


def test_a_type_of_transformers_is_built_for_the_images_and_classes():
    quiet_import("transformers")
    model = build_named("hf:vit", **SIZES, **TINY)
    assert model(torch.randn(2, 1, 32, 32)).logits.shape == (2, 5)


def test_a_folder_with_a_configuration_is_built_and_its_weights_are_taken_with_pretrained(tmp_path):
    quiet_import("transformers")
    saved = build_named("hf:vit", **SIZES, **TINY)
    saved.save_pretrained(tmp_path)
    again = build_named(f"hf:{tmp_path}", **SIZES, pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), again.parameters(), strict=True))
    fresh = build_named(f"hf:{tmp_path}", **{**SIZES, "classes": 7})
    assert fresh(torch.randn(2, 1, 32, 32)).logits.shape == (2, 7)


@pytest.mark.parametrize(("library", "name"), [("timm", "resnet18"), ("torchvision", "resnet18")])
def test_a_model_of_timm_or_torchvision_is_built_for_the_images_and_classes(library, name):
    quiet_import(library)
    model = build_named(f"{library}:{name}", **SIZES)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_name_that_the_library_has_not_is_answered_with_the_nearest(library):
    quiet_import(library)
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        build_named(f"{library}:resnte18", **SIZES)


def test_a_library_that_is_not_installed_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr("blocklocal._common.extras.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs transformers, not installed here.*\[hf\]"):
        build_named("hf:vit", **SIZES)


def test_weights_that_the_library_would_not_draw_are_refused_on_the_device_meta():
    quiet_import("transformers")
    with torch.device("meta"), pytest.raises(InputError, match="train it whole"):
        build_named("hf:vit", **SIZES, **TINY)


@pytest.mark.usefixtures("no_reports")
def test_the_command_line_trains_and_evaluates_a_model_by_name(tmp_path: Path):
    quiet_import("transformers")
    options = [word for name, value in TINY.items() for word in (name, str(value))]
    run = tmp_path / "run"
    small = ["--train-size", "32", "--test-size", "16", "--epochs", "1", "--batch-size", "16", "--no-tensorboard"]
    flags = ["--model", "hf:vit", "--blocks", "3", "--freeze", "*embeddings*", "--output", str(run), *small, "--quiet"]
    at = options.index("patch_size")
    options[at + 1] = "4"
    assert main(["train", *flags, "--model-options", *options]) == 0
    assert json.loads((run / "config.json").read_text())["model"] == "hf:vit"
    assert main(["evaluate", str(run)]) == 0
    assert main(["export", str(run), "--to", str(tmp_path / "exported")]) == 0
    card = (tmp_path / "exported" / "README.md").read_text()
    assert 'AutoModelForImageClassification.from_pretrained("FOLDER")' in card
    assert "build_model" not in card  # it makes models of the library alone
    mean, std = (json.loads((run / "data.json").read_text())[name] for name in ("mean", "std"))
    assert f"`mean` is {mean}, `std` is {std}" in card


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return {"logits": self.head(x)}


def test_frozen_weights_stay_as_they_are_and_a_block_that_is_frozen_whole_passes_on():
    model, x, y = Layers(), torch.randn(8, 6), torch.randint(0, 3, (8,))
    assert freeze(model, ["layers.0.*", "layers.1.bias"]) == ["layers.0.weight", "layers.0.bias", "layers.1.bias"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    network = BlockLocal(split(model, blocks=3, example=x), classes=3, example=x)
    for _ in range(3):
        network.step(x, y)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"layers.1.weight", "layers.2.weight", "layers.2.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize(("pattern", "message"), [("nothing*", "matches no weight"), ("*", "leaves no weight")])
def test_a_pattern_that_freezes_nothing_or_everything_is_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        freeze(Layers(), [pattern])


def lora(model, how):
    peft = quiet_import("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    if how == "wrapped":
        return peft.get_peft_model(model, config)
    return peft.inject_adapter_in_model(config, model)


@pytest.mark.parametrize("how", ["wrapped", "injected"])
def test_only_the_adapters_of_peft_train_and_every_block_has_its_own(how):
    quiet_import("transformers")
    model = lora(build_named("hf:vit", **{**SIZES, "channels": 3}, **TINY), how)
    x, y = images(), torch.tensor([0, 1, 2, 3])
    network = BlockLocal(split(model, blocks=3, example=x), classes=5, example=x)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        network.step(x, y)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name or "classifier.modules_to_save" in name for name in changed)
    for k in range(3):
        assert any(f"layers.{k}." in name and "lora_" in name for name in changed)


def vit_network(x):
    transformers = quiet_import("transformers")
    torch.manual_seed(3)
    config = transformers.ViTConfig(num_labels=5, num_channels=1, image_size=32, **TINY)
    model = transformers.ViTForImageClassification(config)
    return BlockLocal(split(model, blocks=3, example=x), classes=5, example=x)


def test_a_model_that_draws_nothing_on_meta_is_streamed_from_saved_weights_alone(tmp_path):
    x, y = torch.randn(4, 1, 32, 32), torch.arange(4) % 5
    whole = vit_network(x)
    save_model(whole.split.model, str(tmp_path / "weights"))
    with pytest.raises(InputError, match=r"draws no weights on torch's meta device.*weights=file"):
        Streamed(lambda: vit_network(x), visit=1).step(x, y)
    streamed = Streamed(lambda: vit_network(x), visit=1, weights=tmp_path / "weights")
    for _ in range(2):
        whole.step(x, y)
        streamed.step(x, y)
    assert torch.equal(whole.predict(x).probabilities, streamed.predict(x).probabilities)
