"""Figure 2 from its jobs to its files, on small image sets written to disk."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import Image, labels, png, write_parquet

from blocklocal._common.seeds import generator
from blocklocal.data import load_images
from blocklocal.training.loop import Stopped
from blocklocal.training.tally import NotFinite
from experiments import EXPERIMENTS, Job, Place
from experiments import figure2_networks as networks
from experiments.autoencoder import moments
from experiments.figure2 import LABELS, MEASURES, SIZES

FIGURE = EXPERIMENTS.get("figure2")
CPU = torch.device("cpu")
TINY = {
    **SIZES["quick"],
    "epochs": 2,
    "batch_size": 8,
    "wide": 2,
    "hidden": 6,
    "bottleneck": 3,
    "validation": 8,
    "train_size": 24,
}
KEYS = [*MEASURES, "curves"]


def write_set(folder, kind, train, test):
    """Pictures of 8×8: a bright square somewhere ("fashion"), or noise."""
    pictures = []
    for i in range(train + test):
        stream, pixels = generator(kind, i), torch.zeros(8, 8)
        top, left = torch.randint(0, 5, (2,), generator=stream).tolist()
        pixels[top : top + 4, left : left + 4] = 200
        noise = torch.randint(0, 40 if kind == "fashion" else 256, (8, 8), generator=stream)
        pictures.append(png(Image.fromarray((pixels + noise).clamp(max=255).to(torch.uint8).numpy())))
    write_parquet(folder / "train-00000-of-00001.parquet", pictures[:train], labels(train))
    write_parquet(folder / "test-00000-of-00001.parquet", pictures[train:], labels(test))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "fashion_mnist", "fashion", 32, 12)
    write_set(root / "mnist", "other", 3, 6)
    return root


def job(method, seed=0, **changes):
    return Job(f"{method}-seed{seed}", {**TINY, "method": method, "seed": seed, **changes})


def measure(wanted, data, folder):
    return FIGURE.run(wanted, Place(folder / wanted.name, data=data, device="cpu"))


@pytest.fixture(scope="module")
def rows(data, tmp_path_factory):
    """A row per method, as the runner keeps it."""
    folder = tmp_path_factory.mktemp("jobs")
    jobs = [job(method) for method in networks.METHODS] + [job("ensemble", members=2)]
    return [json.loads(json.dumps({"job": j.name, **j.settings, **measure(j, data, folder)})) for j in jobs]


@pytest.fixture(scope="module")
def written(rows, tmp_path_factory):
    """(the tables, the folder with the figures) of all rows."""
    folder = tmp_path_factory.mktemp("written")
    return FIGURE.write(rows, folder), folder


# --- the plan


@pytest.mark.parametrize("size", ["quick", "full"])
def test_every_job_has_its_own_name_and_the_control_and_both_baselines_are_there(size):
    jobs = FIGURE.jobs(size)
    names = [j.name for j in jobs]
    assert len(set(names)) == len(names)
    assert {j.settings["method"] for j in jobs} == set(LABELS)
    assert {j.settings["seed"] for j in jobs if j.settings["method"] == "folded"} == {
        j.settings["seed"] for j in jobs if j.settings["method"] == "frozen"
    }


def test_all_methods_have_one_size():
    for size in SIZES:
        for name in ("wide", "hidden", "bottleneck", "epochs", "lr"):
            assert len({j.settings[name] for j in FIGURE.jobs(size)}) == 1


def test_the_members_of_the_ensemble_are_jobs_of_their_own_before_it():
    jobs = FIGURE.jobs("quick")
    assert jobs[-1].settings["members"] == sum(j.settings["method"] == "plain" for j in jobs) == 5


# --- measuring


def test_a_row_has_every_measure_and_a_curve_of_each_over_the_epochs(rows):
    for row in rows:
        assert row["rmse"] > 0
        assert all(key in row for key in MEASURES)
        if row["method"] != "ensemble":
            assert row["curves"]["epoch"] == [1, 2]
            assert {*MEASURES, "loss", "epoch"} - {"ood_auroc"} == set(row["curves"])
            assert all(len(curve) == 2 for curve in row["curves"].values())


def test_a_constant_variance_has_no_correlation_and_detects_nothing(rows):
    plain = next(row for row in rows if row["method"] == "plain")
    assert plain["spearman"] is None
    assert plain["pearson"] is None
    assert plain["ood_auroc"] == 0.5


def test_a_job_measured_again_gives_the_same_row_whatever_the_random_state(rows, data, tmp_path):
    torch.manual_seed(1234)
    again = measure(job("folded"), data, tmp_path)
    first = next(row for row in rows if row["method"] == "folded")
    assert {key: again[key] for key in KEYS} == {key: first[key] for key in KEYS}


def test_another_seed_gives_another_row(rows, data, tmp_path):
    other = measure(job("gaussian", seed=1), data, tmp_path)
    assert other["rmse"] != rows[0]["rmse"]
    assert "examples" not in other


def test_every_method_starts_from_the_same_network(data):
    images = load_images(str(data / "fashion_mnist"), validation=8)
    first, second = (networks.build(job(method).settings, images, CPU) for method in ("gaussian", "folded"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_ensemble_is_the_same_with_its_members_from_the_disk_and_trained_by_itself(data, tmp_path, monkeypatch):
    wanted = job("ensemble", members=2)
    alone = measure(wanted, data, tmp_path / "alone")
    for seed in range(2):
        measure(job("plain", seed), data, tmp_path / "beside")
    monkeypatch.setattr("experiments.figure2.train", None)  # nothing may be trained any more
    assert measure(wanted, data, tmp_path / "beside") == alone


def test_a_wish_to_stop_ends_a_job_after_an_epoch(data, tmp_path):
    wishes = iter([True])
    place = Place(tmp_path, data, device="cpu", should_stop=lambda: next(wishes))
    with pytest.raises(Stopped):
        FIGURE.run(job("gaussian", epochs=2), place)
    assert not (tmp_path / "network.pt").exists()


def test_a_diverging_network_is_named(data, tmp_path):
    with pytest.raises(NotFinite, match=r"loss of gaussian became (nan|inf) in epoch 1"):
        FIGURE.run(job("gaussian", lr=1e6), Place(tmp_path, data, device="cpu"))


def test_a_member_with_other_settings_is_not_taken(data, tmp_path):
    images = load_images(str(data / "fashion_mnist"), validation=8)
    settings = job("plain").settings
    network = networks.build(settings, images, CPU)
    networks.save_network(tmp_path / "network.pt", network, settings)
    assert networks.load_network(tmp_path / "network.pt", network, settings)
    assert not networks.load_network(tmp_path / "network.pt", network, {**settings, "epochs": 9})
    assert not networks.load_network(tmp_path / "none.pt", network, settings)


def test_the_ensembles_variance_is_the_one_across_members_and_a_constant_that_fits_the_training_images(data):
    images = load_images(str(data / "fashion_mnist"), validation=8)
    members = [networks.build(job("plain", seed).settings, images, CPU).eval() for seed in range(3)]
    mean, variance, image = networks.predict_all(
        networks.constant_variance(members, images.train, CPU), images.train, CPU
    )
    with torch.no_grad():
        means = torch.stack([moments(network(image))[0] for network in members])
    across = means.sub(means.mean(0)).square().mean(0)
    constant = (variance - across).flatten()
    torch.testing.assert_close(mean, means.mean(0))
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))
    assert variance.mean().item() == pytest.approx((image - mean).square().mean().item() + 0.05**2, rel=1e-4)


def test_examples_hold_the_first_test_images_and_fit_into_a_small_row(rows, data):
    shown = rows[0]["examples"]
    pixels = load_images(str(data / "fashion_mnist"), validation=8).test.pixels[:6, 0] / 255
    torch.testing.assert_close(torch.tensor(shown["image"]), pixels, rtol=5e-3, atol=0)
    error = (torch.tensor(shown["image"]) - torch.tensor(shown["mean"])).square()
    torch.testing.assert_close(torch.tensor(shown["squared_error"]), error, rtol=0.1, atol=0.01)
    assert len(json.dumps(rows[0])) / (6 * 64) * (6 * 784) < 300_000
    assert [row["method"] for row in rows if "examples" in row] == ["gaussian", "folded"]


# --- tables and figures


def test_the_table_has_a_line_per_method_the_aims_and_the_ratio_to_end_to_end(rows, written):
    cells = [line.split("|") for line in written[0].splitlines() if line.startswith("|")]
    lines = {name.strip(): figures for _, name, *figures, _ in cells}
    assert [name for name in lines if name in LABELS.values()] == list(LABELS.values())
    assert [cell.strip() for cell in lines["*aim*"]][:3] == ["≤ 0.125", "≥ 0.75", "≥ 0.50"]
    by_method = {row["method"]: row for row in rows}
    assert float(lines[LABELS["folded"]][0]) == pytest.approx(by_method["folded"]["rmse"], abs=5e-5)
    ratio = by_method["folded"]["rmse"] / by_method["gaussian"]["rmse"]
    assert float(lines[LABELS["folded"]][7]) == pytest.approx(ratio, abs=5e-4)


def test_figures_are_small_and_the_same_at_every_writing(rows, written, tmp_path):
    names = [f"figure2-{part}.{kind}" for part in ("examples", "mismatch") for kind in ("png", "svg")]
    assert FIGURE.write(rows, tmp_path) == written[0]
    for name in names:
        first, second = written[1] / name, tmp_path / name
        assert first.read_bytes() == second.read_bytes()
        assert 1_000 < first.stat().st_size < 1_000_000


@pytest.mark.parametrize("methods", [["ensemble", "plain"], ["folded"], ["frozen", "gaussian"], []], ids=str)
def test_rows_that_are_measured_so_far_are_enough(rows, methods, tmp_path):
    text = FIGURE.write([row for row in rows if row["method"] in methods], tmp_path)
    for method, label in LABELS.items():
        assert (f"| {label} |" in text) is (method in methods)


def test_seeds_are_averaged(rows, tmp_path):
    first = {key: value for key, value in rows[0].items() if key not in ("curves", "examples")}  # draws nothing
    second = {**first, "seed": 1, "rmse": first["rmse"] + 0.2}
    line = next(line for line in FIGURE.write([first, second], tmp_path).splitlines() if LABELS["gaussian"] in line)
    assert f"{rows[0]['rmse'] + 0.1:.4f} ± {0.2 / math.sqrt(2):.4f}" in line
    assert line.split("|")[-2].strip() == "2"


def test_a_folder_without_the_sets_is_refused_in_words(tmp_path):
    place = replace(Place(tmp_path / "job"), data=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="must hold one folder for fashion-mnist"):
        FIGURE.run(job("gaussian"), place)
