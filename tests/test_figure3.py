"""Oracles: tiny jobs, and rows made by hand whose tables are known."""

import json
import math

import pytest
import torch

from blocklocal.data.sequences import spread_windows
from blocklocal.report.table import NOTHING
from experiments import EXPERIMENTS, Job, Place, language, reversal
from experiments.streams import LABELS, WAYS, build, stream_content

FIGURE = EXPERIMENTS.get("figure3")
SMALL_TEXT = {
    "width": 8, "heads": 1, "length": 8, "batch_size": 2, "steps": 4, "looks": 2, "least": 100, "rare": 1,
    "validation_windows": 4, "test_windows": 5,
}  # fmt: skip
SMALL_REVERSAL = {"width": 8, "training": 20, "validation": 10, "test": 10, "batch_size": 10, "epochs": 2}


def tiny(task, way="evidence", blocks=2):
    """A job of figure 3, made small."""
    name = f"{task}-{way}-{blocks}-seed0"
    job = next(job for job in FIGURE.jobs("quick") if job.name == name)
    return Job(name, job.settings | (SMALL_TEXT if task == "language" else SMALL_REVERSAL))


def run(job, tmp_path):
    text = tmp_path / "text"
    text.mkdir(exist_ok=True)
    for i in range(40):
        (text / f"{i}.txt").write_text(f"page {i} of the text\n")
    return FIGURE.run(job, Place(tmp_path, text=text, device="cpu"))


# --- jobs


@pytest.mark.parametrize("size", ["quick", "full"])
def test_jobs_have_names_of_their_own_and_settings_that_json_keeps(size):
    jobs = FIGURE.jobs(size)
    assert len({job.name for job in jobs}) == len(jobs)
    assert all(json.loads(json.dumps(job.settings)) == job.settings for job in jobs)
    assert {job.settings["way"].removesuffix("-long") for job in jobs} <= set(WAYS) == set(LABELS)


def test_every_depth_and_number_of_blocks_has_backprop_and_the_control_at_every_seed():
    for size, deepest in (("quick", 20), ("full", 40)):
        kept = {tuple(job.settings[k] for k in ("task", "way", "blocks", "seed")) for job in FIGURE.jobs(size)}
        assert max(blocks for task, _, blocks, _ in kept if task == "reversal") == deepest
        for task, way, blocks, seed in kept:
            assert (task, "backprop", blocks, seed) in kept
            assert (task, "frozen", blocks, seed) in kept or blocks == 1, (way, blocks, seed)


def test_a_finished_figure_has_no_empty_cell_but_those_that_one_block_or_the_plan_leaves(tmp_path):
    once = [job.settings for job in reversal.jobs("quick") if not job.name.endswith("-long")]
    rows = [reversal_row(*(settings[k] for k in ("way", "blocks", "seed")), 99.0) for settings in once]
    text = [language_row(*(job.settings[k] for k in ("way", "blocks", "seed")), 3.0) for job in language.jobs("quick")]
    assert NOTHING not in reversal.accuracy_table(rows).replace(f"| {NOTHING} | 99.0", "")  # the paper's column
    assert NOTHING not in language.bits_table(text)
    assert [len(reversal.values(rows, reversal.BEST, depth)) for depth in reversal.depths(rows)] == [5] * 5


def test_splits_of_the_reversal_task_share_no_permutation():
    batches = reversal._data(tiny("reversal").settings, torch.device("cpu"))
    parts = [{tuple(row.tolist()) for row in each.x} for each in batches]
    assert [len(part) for part in parts] == [20, 10, 10]
    assert len(set.union(*parts)) == 40


# --- measuring


@pytest.mark.parametrize("way", ["backprop", "frozen", "evidence", reversal.NAIVE, reversal.BEST])
def test_a_reversal_job_measures_every_epoch_and_the_test_set(tmp_path, way):
    row = run(tiny("reversal", way), tmp_path)
    assert len(row["validation_top1"]) == len(row["message"]) == 2
    assert all(0 <= value <= 100 for value in [*row["validation_top1"], row["test_top1"]])
    assert (row["message_start"] is None) == (way in ("backprop", "frozen"))
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("way", language.LINES)
def test_a_language_job_measures_bits_on_a_folder_of_text(tmp_path, way):
    row = run(tiny("language", way), tmp_path)
    assert len(row["validation_bits"]) == 2
    assert row["test_bits"] == row["block_bits"][-1]
    assert 0 < row["test_bits"] < 10
    assert sum(row["data"]["documents"].values()) == 40
    predicting = 1 if way in ("backprop", "frozen") else 2
    assert sum(bits is not None for bits in row["block_bits"]) == predicting
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("task", ["reversal", "language"])
def test_a_job_gives_the_same_row_twice_and_another_for_another_seed(tmp_path, task):
    job = tiny(task)
    other = Job(job.name, job.settings | {"seed": 1})
    rows = [run(each, tmp_path) for each in (job, job, other)]
    assert rows[0] == rows[1] != rows[2]


def test_bits_of_a_uniform_model_are_the_logarithm_of_its_symbols():
    shape = {"vocabulary": 8, "length": 4, "width": 8, "blocks": 1, "heads": 1}
    network = build(WAYS["backprop"], shape, positions=4, seed=0, device=torch.device("cpu"))
    for p in network.to_plain().parameters():
        assert p.requires_grad
    for p in network.learners[0].block[0].head.parameters():
        p.data.zero_()
    batches = spread_windows(torch.arange(99) % 8, length=4, count=10, batch_size=3)
    assert language.bits_per_character(network, batches) == pytest.approx([3.0])


@pytest.mark.parametrize(("shift", "share"), [(0.0, 1.0), (10.0, 0.0)])
def test_what_is_the_same_for_every_sequence_is_not_of_the_tokens(shift, share):
    """Branches that add nothing leave the embedding; a large constant of a bias drowns it."""
    shape = {"vocabulary": 8, "length": 4, "width": 8, "blocks": 3, "heads": 1}
    network = build(WAYS["backprop"], shape, positions=4, seed=0, device=torch.device("cpu"))
    for layer in network.split.model.layers:
        for linear in (layer.attention.output, layer.dense[2]):
            linear.weight.data.zero_()
            linear.bias.data.fill_(shift)
    network.split.model.embedding.position.weight.data.zero_()
    x = torch.randint(8, (200, 4), generator=torch.Generator().manual_seed(0))
    size, own = stream_content(network, x)
    assert size == pytest.approx(4 * shift or 1, rel=0.3)
    assert own == pytest.approx(share, abs=0.15)
    one = build(WAYS["backprop"], shape | {"blocks": 1}, positions=4, seed=0, device=torch.device("cpu"))
    assert stream_content(one, x) is None


# --- writing


def reversal_row(way, blocks, seed, accuracy):
    settings = reversal._job("quick", way, blocks, seed)
    result = {
        "validation_top1": [accuracy / 2, accuracy],
        "message_start": None if way in ("backprop", "frozen") else 0.1,
        "message": [None if way in ("backprop", "frozen") else 0.05] * 2,
        "test_top1": accuracy,
        "stream": [2.0, 0.5],
        "block_top1": [None] * (blocks - 1) + [accuracy],
    }
    return {"job": settings.name, **settings.settings, **result}


def language_row(way, blocks, seed, bits):
    job = next(job for job in language.jobs("quick") if job.name == f"language-{way}-{blocks}-seed{seed}")
    data = {"folder": "/text", "symbols": 9, **{k: dict.fromkeys(("train", "validation", "test"), 4) for k in KINDS}}
    result = {
        "data": data,
        "validation_bits": [bits],
        "test_bits": bits,
        "block_bits": [None] * (blocks - 1) + [bits],
        "message": None,
    }
    return {"job": job.name, **job.settings, **result}


KINDS = ("documents", "characters")


def test_tables_give_means_and_deviations_over_seeds(tmp_path):
    rows = [reversal_row("backprop", 5, seed, value) for seed, value in enumerate((98.0, 100.0))]
    rows += [reversal_row("frozen", 5, 0, 98.5), reversal_row("backprop", 1, 0, 97.0)]
    text = FIGURE.write(rows, tmp_path)
    assert "| 5 | 99.9 | 99.0 ± 1.4 | 98.5 | – |" in text
    assert "| 1 | – | 97.0 | 97.0 | 97.0 |" in text
    assert "cannot tell learning rules apart" in text


def test_a_control_below_backprop_is_not_said_to_match_it():
    rows = [reversal_row("backprop", 5, 0, 100.0), reversal_row("frozen", 5, 0, 90.0)]
    assert reversal.verdict(rows) == ""


def test_the_place_between_control_and_backprop_is_a_share_of_their_gap(tmp_path):
    bits = {"backprop": 2.0, "frozen": 3.0, "evidence": 2.25, reversal.BEST: 3.1}
    rows = [language_row(way, 8, 0, value) for way, value in bits.items()] + [language_row("backprop", 1, 0, 2.5)]
    assert language.share(rows, "evidence", 8) == pytest.approx(75)
    assert language.share(rows, reversal.BEST, 8) == pytest.approx(-10)
    assert language.share(rows, "evidence", 1) is None
    assert language.share(rows, "evidence", 4) is None
    text = FIGURE.write(rows, tmp_path)
    assert "| evidence | – | – | – | 75 |" in text
    assert "7 more blocks gain backprop +0.500 bits per character and the frozen control -0.500" in text


def test_figures_are_small_and_the_same_bytes_again(tmp_path):
    rows = [reversal_row(way, n, s, 90.0 + n + s) for way in reversal.LINES for n in (2, 5) for s in (0, 1)]
    rows += [language_row(way, n, 0, 3.0 - n / 10) for way in language.LINES for n in (2, 4)]
    names = {f"figure3-{name}.{kind}" for name in ("curves", "depth", "language") for kind in ("png", "svg")}
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        FIGURE.write(rows, folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert set(written[0]) == names
    assert written[0] == written[1]
    assert all(0 < len(data) < 1_000_000 for data in written[0].values())


@pytest.mark.parametrize("count", range(1, 3))
def test_any_part_of_the_rows_can_be_written(tmp_path, count):
    made = [reversal_row(way, 5, 0, 99.0) for way in ("frozen", reversal.NAIVE)]
    made += [language_row("frozen", 8, 0, 3.0), language_row("backprop", 1, 0, math.pi)]
    for rows in (made[:count], made[count:]):
        assert isinstance(FIGURE.write(rows, tmp_path), str)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_in_the_precision_of_a_gpu(way):
    shape = {"vocabulary": 10, "length": 6, "width": 8, "blocks": 3, "heads": 1}
    network = build(WAYS[way], shape, positions=6, seed=0, device=torch.device("cpu"))
    network.autocast(torch.bfloat16)
    x = torch.randint(10, (4, 6), generator=torch.Generator().manual_seed(0))
    before = [p.clone() for p in network.learners[-1].parameters()]
    assert all(r is None or math.isfinite(r.loss) for r in network.step(x, x.flip(1)))
    after = list(network.learners[-1].parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.dtype == torch.float32 and bool(torch.isfinite(p).all()) for p in after)


def test_longer_runs_stand_in_a_table_of_their_own():
    rows = [reversal_row("batch", 20, seed, 40.0) for seed in (0, 1)]
    longer = [{**reversal_row("batch", 20, seed, 90.0), "way": "batch-long", "training": 5_000} for seed in (0, 1)]
    assert reversal.longer_table(rows) == ""
    assert "| 90.0 ± 0.0 |" in reversal.longer_table([*rows, *longer])
    assert "90.0" not in reversal.placement_table([*rows, *longer])
    jobs = {job.name: job.settings for job in reversal.jobs("quick")}
    short, long = jobs["reversal-batch-20-seed0"], jobs["reversal-batch-20-seed0-long"]
    assert {key for key in short if short[key] != long[key]} == {"way", "training"}
