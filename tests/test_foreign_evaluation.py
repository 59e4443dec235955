"""`evaluate --foreign`: how well foreign files are told. Oracle: the functions of `uncertainty.foreign`."""

import json

import pytest
import torch
from run_helpers import calibrated

from blocklocal.cli.main import main
from blocklocal.runs.exits import kept_exits
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data, normalise
from blocklocal.uncertainty.foreign import aupr, false_positives, foreign_scores
from blocklocal.uncertainty.measures import auroc

COUNT = 30


@pytest.fixture(scope="module", params=["block-local", "backprop"])
def run(request, tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("runs") / "run", rule=request.param)


def noise(folder, side: int = 8):
    """Files of noise, and their pixels."""
    from PIL import Image

    folder.mkdir()
    pixels = torch.randint(0, 255, (COUNT, 1, side, side), dtype=torch.uint8)
    for k, each in enumerate(pixels):
        Image.fromarray(each[0].numpy()).save(folder / f"{k:02}.png")
    return pixels


def scores(network, batches, temperatures):
    parts = []
    for x in batches:
        divided = zip(network.block_logits(x), temperatures, strict=True)
        parts.append(foreign_scores([None if each is None else each / t for each, t in divided]))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_every_score_is_measured_against_the_split(run, tmp_path, capsys):
    pixels = noise(tmp_path / "noise")
    asked = ["evaluate", str(run), "--foreign", str(tmp_path / "noise"), "--json"]
    assert main([*asked, str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["foreign"]
    config, facts, network = load_network(run, None, "cpu")
    network.eval()
    kept = kept_exits(run)
    batches = evaluation_batches(config, load_data(config, run).test, facts, torch.device("cpu"))
    inside = scores(network, [x for x, _ in batches], kept.temperatures.blocks)
    outside = scores(network, [normalise(pixels, facts)], kept.temperatures.blocks)
    assert (found["samples"], found["foreign_samples"]) == (200, COUNT)
    assert set(found["scores"]) == set(kept.limits) == set(inside)
    assert ("disagreement" in inside) == (len(kept.own) > 1)
    for name, limit in kept.limits.items():
        expected = {
            "auroc": auroc(inside[name], outside[name]),
            "aupr": aupr(inside[name], outside[name]),
            "false_positives": false_positives(inside[name], outside[name]),
            "set_beyond": (inside[name] > limit).double().mean().item(),
            "foreign_beyond": (outside[name] > limit).double().mean().item(),
        }
        assert found["scores"][name] == pytest.approx(expected, abs=1e-6)
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ")]
        assert line.split()[1:4] == [f"{expected[key]:.3f}" for key in ("auroc", "aupr", "false_positives")]
    assert "30 foreign samples beside a set of 200." in said


def test_one_block_at_a_time_says_the_same(run, tmp_path):
    noise(tmp_path / "noise")
    told = []
    for k, visit in enumerate(([], ["--visit", "2"])):
        file = tmp_path / f"{k}.json"
        assert main(["evaluate", str(run), "--foreign", str(tmp_path / "noise"), "--json", str(file), *visit]) == 0
        told.append(json.loads(file.read_text())["foreign"])
    assert told[0] == told[1]


def test_images_of_another_size_are_scaled_where_that_is_asked(run, tmp_path, capsys):
    noise(tmp_path / "noise", side=12)
    asked = ["evaluate", str(run), "--foreign", str(tmp_path / "noise")]
    assert main(asked) == 2
    assert "12x12 pixels, the model takes 8x8: give --resize" in capsys.readouterr().err
    assert main([*asked, "--resize"]) == 0
    assert "30 foreign samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resize"], "--resize is for the images of --foreign"),
        (["--foreign", "nothing.png"], "there is no image nothing.png"),
        (["--foreign", "."], "holds no images"),
    ],
)
def test_what_cannot_be_is_refused(run, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(run), *flags]) == 2
    assert words in capsys.readouterr().err


def test_early_exit_does_not_ask_all_blocks(run, tmp_path, capsys):
    if len(kept_exits(run).own) == 1:
        pytest.skip("backprop trains one learner, which has no exits")
    assert main(["evaluate", str(run), "--foreign", str(tmp_path), "--budget", "0.9"]) == 2
    assert "--foreign asks all blocks" in capsys.readouterr().err


def test_rows_are_read_from_one_file(tmp_path, capsys):
    draw = torch.rand(400, 2)
    table = tmp_path / "table.csv"
    table.write_text("a,b,y\n" + "".join(f"{a:.3f},{b:.3f},{'yes' if a > b else 'no'}\n" for a, b in draw.tolist()))
    run, other = tmp_path / "run", tmp_path / "other.csv"
    sizes = ["--width", "16", "--blocks", "2", "--epochs", "3", "--validation", "150"]
    assert main(["train", "--data", str(table), "--target", "y", *sizes, "--quiet", "--output", str(run)]) == 0
    assert main(["calibrate", str(run)]) == 0
    other.write_text("a,b\n" + "".join(f"{9 + k},-7\n" for k in range(20)))
    capsys.readouterr()
    assert main(["evaluate", str(run), "--foreign", str(other), "--json", str(tmp_path / "found.json")]) == 0
    assert "20 foreign samples beside a set of 80." in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["foreign"]["scores"]
    config, facts, network = load_network(run, None, "cpu")
    network.eval()
    (a, b), kept = (facts.features.columns[k] for k in range(2)), kept_exits(run)
    x = torch.tensor([[(9 + k - a.mean) / a.std, (-7 - b.mean) / b.std] for k in range(20)])
    outside = scores(network, [x], kept.temperatures.blocks)
    for name, limit in kept.limits.items():
        assert found[name]["foreign_beyond"] == pytest.approx((outside[name] > limit).double().mean().item())
    test = evaluation_batches(config, load_data(config, run).test, facts, torch.device("cpu"))
    inside = scores(network, [x for x, _ in test], kept.temperatures.blocks)
    assert found["energy"]["auroc"] == pytest.approx(auroc(inside["energy"], outside["energy"]), abs=1e-6)
    assert main(["evaluate", str(run), "--foreign", str(other), "--resize"]) == 2
    assert "--resize is for images, and this run reads rows" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--foreign", str(other), str(other)]) == 2
    assert "give one file of foreign ones, not 2" in capsys.readouterr().err


def test_values_are_not_told_apart(tmp_path, capsys):
    table, run = tmp_path / "table.csv", tmp_path / "run"
    draw = torch.rand(200, 2).tolist()
    table.write_text("a,b,y\n" + "".join(f"{a:.3f},{b:.3f},{a + b:.4f}\n" for a, b in draw))
    sizes = ["--width", "8", "--blocks", "2", "--epochs", "1", "--validation", "50"]
    assert main(["train", "--data", str(table), "--target", "y", *sizes, "--quiet", "--output", str(run)]) == 0
    assert main(["calibrate", str(run)]) == 0
    assert main(["evaluate", str(run), "--foreign", str(table)]) == 2
    assert "of which a block gives probabilities" in capsys.readouterr().err
