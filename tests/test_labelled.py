"""A share of the labels, and two views, from images to runs. Oracles: counts, and augmentations by hand."""

import pytest
import torch
from run_helpers import assert_same_run, equal, metrics, stopped, tiny, train, weights, whole, without_reports

from blocklocal._common.errors import InputError
from blocklocal.cli.main import main
from blocklocal.data import Batches, load_images
from blocklocal.data.answers import UNKNOWN
from blocklocal.data.labelled import keep_labels, repeated
from blocklocal.runs.run import resume_run, start_run
from blocklocal.runs.sets import load_data, training_batches
from blocklocal.streaming.settings import Streaming


def test_the_same_share_of_every_class_keeps_its_label():
    labels = torch.cat([torch.zeros(100), torch.ones(40), torch.full((3,), 2)]).long()
    kept = keep_labels(labels, 0.1, seed=0)
    assert [(kept == c).sum().item() for c in range(3)] == [10, 4, 1]
    assert bool((kept[kept >= 0] == labels[kept >= 0]).all())
    assert bool((keep_labels(labels, 1.0, 0) == labels).all())


def test_a_smaller_share_is_a_part_of_a_larger_one_and_seeds_differ():
    labels = torch.arange(1000) % 10
    few, many = keep_labels(labels, 0.01, 3) >= 0, keep_labels(labels, 0.1, 3) >= 0
    assert bool((many | ~few).all())
    assert not torch.equal(many, keep_labels(labels, 0.1, 4) >= 0)


def test_samples_without_one_class_each_are_refused():
    with pytest.raises(InputError, match="one class each"):
        keep_labels(torch.rand(5, 2), 0.5, 0)


@pytest.mark.parametrize(
    ("known", "share", "times"), [(10, 0.5, 9), (1, 0.5, 99), (50, 0.5, 1), (90, 0.5, 1), (10, 0.2, 2)]
)
def test_samples_with_a_label_are_repeated_until_they_are_a_share_of_the_epoch(known, share, times):
    labels = torch.full((100,), UNKNOWN)
    labels[torch.randperm(100)[:known]] = 3
    counts = repeated(labels, share).bincount(minlength=100)
    assert set(counts[labels == 3].tolist()) == {times}
    assert set(counts[labels != 3].tolist()) <= {1}
    with pytest.raises(InputError, match="none has one"):
        repeated(torch.full((9,), UNKNOWN), 0.5)


def test_a_run_repeats_them_and_says_so():
    config = tiny(labelled=0.2, repeat_labelled=0.5)
    data, once = load_data(config), load_data(tiny(labelled=0.2))
    assert torch.equal(data.train.labels, once.train.labels)  # they are repeated in an epoch, and nowhere else
    seen = torch.cat([y for _, y in training_batches(config, data, torch.device("cpu"))])
    assert (seen != UNKNOWN).double().mean().item() == pytest.approx(0.5, abs=0.06)
    assert (seen == UNKNOWN).sum() == (once.train.labels == UNKNOWN).sum()
    assert "are seen 4 times in an epoch" in data.account[-1]
    whole = load_data(tiny(repeat_labelled=0.5))
    assert len(whole.train) == len(load_data(tiny()).train)
    assert "none is repeated" in whole.account[-1]
    with pytest.raises(InputError, match="--repeat-labelled are for samples with one class each"):
        repeated(torch.rand(5, 2), 0.5)


def test_a_batch_of_two_views_holds_each_image_twice_with_its_label():
    train = load_images("digits").train
    given = {"batch_size": 50, "mean": (0.3,), "std": (0.4,), "shuffle": True, "seed": 3}
    for (one, y), (two, both) in zip(
        Batches(train, augment="crop:1", **given), Batches(train, augment="crop:1", second="", **given), strict=True
    ):
        torch.testing.assert_close(two[: len(one)], one)
        assert both.tolist() == [*y.tolist(), *y.tolist()]
    plain = next(iter(Batches(train, **given)))[0]
    second = next(iter(Batches(train, augment="crop:1", second="", **given)))[0][50:]
    torch.testing.assert_close(second, plain)
    moved = next(iter(Batches(train, augment="crop:1", second="crop:1", **given)))[0]
    assert not torch.equal(moved[:50], moved[50:])
    with pytest.raises(InputError, match="leave mix out"):
        Batches(train, second="", mix="mixup", classes=10, **given)


VIEWS = {"labelled": 0.2, "augment": "crop:1", "consistency": 1.0, "barlow": 0.1, "reconstruction": 0.1}


def test_a_run_learns_from_few_labels_and_two_views(tmp_path):
    config = tiny(**VIEWS)
    data = load_data(config)
    assert (data.train.labels >= 0).sum() == pytest.approx(12, abs=3)
    assert bool((data.test.labels >= 0).all())
    assert any("of 60 training samples keep their label" in line for line in data.account)
    x, y = next(iter(training_batches(config, data, torch.device("cpu"))))
    assert len(x) == len(y) == 2 * config.data.batch_size
    with without_reports():
        run = whole(config, tmp_path / "run")
    hidden, output = metrics(run)[-1]["parts"]
    assert {"evidence", "consistency", "barlow", "image"} == set(hidden)
    assert {"cross-entropy", "consistency"} == set(output)


def test_it_goes_on_bit_for_bit_after_any_step(tmp_path):
    with without_reports():
        reference = whole(tiny(**VIEWS), tmp_path / "reference")
        run = stopped(tiny(**VIEWS), tmp_path / "run", 4)
        resume_run(run, quiet=True)
    assert_same_run(run, reference)


def test_one_block_in_memory_at_a_time_learns_the_same(tmp_path):
    with without_reports():
        reference = whole(tiny(**VIEWS), tmp_path / "reference")
        start_run(tiny(**VIEWS), tmp_path / "run", quiet=True, streaming=Streaming(visit=2))
    assert equal(weights(tmp_path / "run"), weights(reference))


def test_several_processes_learn_the_same(tmp_path):
    with without_reports():
        reference = whole(tiny(**VIEWS), tmp_path / "reference")
    assert train(tmp_path, "--processes", 2, **VIEWS).status == 0
    assert equal(weights(tmp_path / "run"), weights(reference))


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 7},{'uv'[i % 2]}\n" for i in range(60)))
    table = ["train", "--data", str(tmp_path / "t.csv"), "--target", "y", "--output", str(tmp_path / "run")]
    assert main([*table, "--barlow", "1"]) == 2
    assert "two views of an image, and t holds none" in capsys.readouterr().err
    assert main(["train", "--data", "digits", "--labelled", "0", "--output", str(tmp_path / "run")]) == 2
    assert "labelled" in capsys.readouterr().err


def test_images_without_a_label_are_not_mixed(tmp_path, capsys):
    given = ["train", "--data", "digits", "--labelled", "0.1", "--mix", "mixup", "--output", str(tmp_path / "run")]
    assert main(given) == 2
    assert "some have none: leave mix out" in capsys.readouterr().err
