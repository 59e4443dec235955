"""What is exported loads with plain torch and safetensors; the card has the figures of the run's summary."""

import json

import pytest
import torch
from rule_helpers import build, data, network, same
from run_helpers import assert_refused, cli, summary, train
from safetensors.torch import load_model
from torch import nn

import blocklocal as bl
from blocklocal import InputError


def trained(architecture="mlp", **settings):
    net = network(architecture, **settings)
    net.step(*data(architecture))
    return net


def answers(model, architecture):
    return model.eval()(data(architecture)[0])


@pytest.mark.parametrize("architecture", ["mlp", "resnet18", "traced", "sequential"])
def test_the_state_dict_of_the_model_loads_with_plain_torch(tmp_path, architecture):
    net, plain = trained(architecture), build(architecture, seed=7)
    torch.save(net.to_plain().state_dict(), tmp_path / "model.pt")
    plain.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(answers(plain, architecture), answers(net.to_plain(), architecture))


@pytest.mark.parametrize("architecture", ["mlp", "resnet18"])
def test_an_exported_folder_loads_with_safetensors_alone(tmp_path, architecture):
    net, plain = trained(architecture).to(memory_format=torch.channels_last), build(architecture, seed=7)
    folder = net.save_pretrained(tmp_path / "mine")
    load_model(plain, folder / "model.safetensors")
    assert same(dict(plain.state_dict()), dict(net.to_plain().state_dict()))
    facts = json.loads((folder / "config.json").read_text())
    assert (facts["rule"], facts["blocks"]) == ("block-local", 3)
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: pytorch\n")


def test_a_weight_that_two_layers_share_is_written_once_and_loads_into_both(tmp_path):
    def tied():
        layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
        layers[2].weight = layers[0].weight
        return layers

    net = bl.BlockLocal(bl.split(tied(), at=["4"]), classes=5, example=torch.zeros(2, 8), readout=0)
    plain = tied()
    load_model(plain, net.save_pretrained(tmp_path / "mine") / "model.safetensors")
    assert same(dict(plain.state_dict()), dict(net.to_plain().state_dict()))


def test_a_model_with_its_own_save_pretrained_writes_itself(tmp_path):
    class Own(nn.Sequential):
        def save_pretrained(self, folder):
            (folder / "own.txt").write_text("mine")

    net = bl.BlockLocal(
        bl.split(Own(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)), 2), classes=5, example=torch.zeros(2, 8)
    )
    assert {path.name for path in net.save_pretrained(tmp_path / "mine").iterdir()} == {"own.txt", "README.md"}


def test_a_folder_that_holds_things_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        trained().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_is_exported_with_its_measured_table(tmp_path):
    train(tmp_path)
    run, out = tmp_path / "run", tmp_path / "exported"
    assert cli("export", run, "--to", out).status == 0
    facts, result = json.loads((out / "config.json").read_text()), summary(run)
    plain = bl.build_model(
        facts["model"]["name"], classes=10, channels=1, image_size=(8, 8), width=facts["model"]["width"]
    )
    load_model(plain, out / "model.safetensors")
    assert same(dict(plain.state_dict()), dict(bl.load(run).to_plain().state_dict()))
    card = (out / "README.md").read_text()
    assert f"| output | {result['test_top1']:.2f} |" in card
    assert all(f"| {score:.2f} |" in card for score in result["block_test_top1"])
    assert_refused(cli("export", run, "--to", out), "not empty")
    assert_refused(cli("export", tmp_path / "none", "--to", tmp_path / "new"), "none", folder=tmp_path / "new")


def test_a_run_on_a_table_of_values_is_exported_with_its_errors_and_the_call_that_builds_it(tmp_path):
    rows = [f"{i % 7},{'ab'[i % 2]},{1.5 * (i % 7) + i % 2}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["n,kind,price", *rows]) + "\n")
    run, out = tmp_path / "run", tmp_path / "exported"
    done = cli(
        *("train", "--data", tmp_path / "t.csv", "--target", "price", "--target-is", "values"),
        *("--blocks", 2, "--width", 8, "--epochs", 1, "--output", run),
    )
    assert done.status == 0, done.text
    said = cli("export", run, "--to", out)
    assert said.status == 0, said.text
    card, result = (out / "README.md").read_text(), summary(run)
    assert f"| output | {result['test_rmse']:.3f} |" in card
    assert "tabular-regression" in card
    assert "mage" not in card
    call = next(line for line in card.splitlines() if line.startswith("blocklocal.build_model("))
    plain = eval(call, {"blocklocal": bl})
    load_model(plain, out / "model.safetensors")
    assert same(dict(plain.state_dict()), dict(bl.load(run).to_plain().state_dict()))
