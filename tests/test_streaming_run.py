"""Oracle: the ordinary run. From the command line, with one block at a time in memory: the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parallel_helpers import command, finished, started
from PIL import Image
from run_helpers import (
    STEPS,
    StopAfter,
    assert_same_run,
    cli,
    flags,
    newest,
    summary,
    tiny,
    whole,
    with_dropout,
    without_reports,
)

from blocklocal._common.errors import InputError, Interrupted
from blocklocal.network.walks import Pair, respects
from blocklocal.runs.run import resume_run, start_run
from blocklocal.streaming.settings import Streaming
from blocklocal.timeline.read import read_timeline
from blocklocal.timeline.segments import COMPUTE
from blocklocal.training.checkpoint_folder import list_checkpoints


def config(**changes):
    """Dropout, augmentation, BatchNorm and a smaller last batch: 3 blocks, 2 epochs of 20, 20, 10."""
    return with_dropout(**{"train_size": 50, **changes})


def asked(times: int) -> Callable[[], bool]:
    """The user stops a run when it asks for the `times`-th time."""
    stop = StopAfter(times)
    return lambda: stop.asked


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with without_reports():
        yield whole(config(), tmp_path_factory.mktemp("reference") / "run")


@pytest.mark.parametrize(
    "streaming",
    [Streaming(2), Streaming(5, boundary_cache="files"), Streaming(2, store="ram"), Streaming(1)],
    ids=["files", "a whole epoch at once, messages in files", "ram", "one step"],
)
def test_a_streamed_run_is_the_ordinary_run(tmp_path, reference, streaming):
    with without_reports():
        start_run(config(), tmp_path / "run", quiet=True, streaming=streaming)
    assert_same_run(tmp_path / "run", reference)


def test_blocks_may_rest_in_a_folder_elsewhere(tmp_path, reference):
    out, store = tmp_path / "run", tmp_path / "disk" / "store"
    with without_reports():
        start_run(config(), out, quiet=True, streaming=Streaming(2, store=str(store)))
    assert_same_run(out, reference)
    assert newest(out).resolve().parent == store.resolve()


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("first", [Streaming(2), None], ids=["streamed first", "in memory first"])
def test_a_stopped_run_goes_on_in_the_other_way(tmp_path, reference, first, times):
    """Stopped at a step; where it is streamed, at the end of a chunk of two steps (the last of an epoch has one)."""
    out, second = tmp_path / "run", None if first else Streaming(2)
    with without_reports():
        with pytest.raises(Interrupted):
            start_run(config(), out, quiet=True, should_stop=asked(times), streaming=first)
        resume_run(out, quiet=True, streaming=second)
    assert_same_run(out, reference)


def test_evaluation_and_prediction_say_the_same_with_one_block_at_a_time(reference):
    ordinary, streamed = cli("evaluate", reference), cli("evaluate", reference, "--visit", 3)
    assert (ordinary.status, streamed.status) == (0, 0)
    assert streamed.out == ordinary.out


@pytest.mark.parametrize("delay", [0, 1])
def test_a_run_with_a_chained_twin_is_looked_at_without_the_delay_that_training_would_need(tmp_path, delay):
    with without_reports():
        run = whole(config(twin="chain", message_delay=delay, epochs=1), tmp_path / "run")
    ordinary, streamed = cli("evaluate", run), cli("evaluate", run, "--visit", 3)
    assert (ordinary.status, streamed.status) == (0, 0), streamed.text
    assert streamed.out == ordinary.out
    shown = [cli("predict", run, picture(tmp_path), *visit) for visit in ((), ("--visit", 3))]
    assert (shown[0].status, shown[1].out) == (0, shown[0].out)


def picture(folder: Path) -> Path:
    Image.new("L", (16, 16), 90).save(folder / "picture.png")
    return folder / "picture.png"


def test_the_time_of_a_chained_twin_is_measured_too():
    said = cli("plan", *flags(blocks=3, twin="chain", message_delay=4), "--visit", 4)
    assert said.status == 0, said.text
    assert "per step" in said.text


def test_a_rule_that_cannot_be_streamed_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the model was built")

    monkeypatch.setattr("blocklocal.runs.build.plain_model", never)
    for rule in ("feedback-alignment", "backprop"):
        said = cli("train", *flags(rule=rule), "--visit", 2, "--output", tmp_path / "run")
        assert said.status == 2, said.text
        assert f"the rule {rule}" in said.text


def test_to_look_at_a_run_changes_nothing_in_its_folder(reference):
    before = {path: path.stat().st_mtime_ns for path in sorted((reference / "checkpoints").rglob("*"))}
    assert cli("evaluate", reference, "--visit", 3).status == 0
    assert {path: path.stat().st_mtime_ns for path in sorted((reference / "checkpoints").rglob("*"))} == before


@pytest.mark.parametrize("store", ["", "ram"], ids=["files", "ram"])
def test_a_checkpoint_between_epochs_holds_the_weights_of_its_step(tmp_path, store):
    """Chunks of two steps end at steps 2, 3, 5 and 6; a checkpoint is wanted every second step."""
    ordinary, streamed = tmp_path / "ordinary", tmp_path / "streamed"
    every = config(checkpoint_every=2, epochs=1)
    with without_reports():
        for out, streaming in ((ordinary, None), (streamed, Streaming(2, store=store))):
            with pytest.raises(Interrupted):  # a stop saves too, so what is looked at is the checkpoint before it
                start_run(every, out, quiet=True, should_stop=asked(3 if streaming is None else 2), streaming=streaming)
    names = [{path.name: path for path in list_checkpoints(out / "checkpoints")} for out in (ordinary, streamed)]
    assert "step-00000002" in names[1]
    for k in range(3):
        file = f"block-{k}.safetensors"
        assert (names[0]["step-00000002"] / file).read_bytes() == (names[1]["step-00000002"] / file).read_bytes()


def test_a_stopped_run_says_how_to_go_on_with_one_block_at_a_time(tmp_path):
    with without_reports(), pytest.raises(Interrupted, match=r"--resume .* --visit 2"):
        start_run(tiny(), tmp_path / "run", quiet=True, should_stop=asked(1), streaming=Streaming(2))


def test_a_store_that_has_gone_is_named(tmp_path):
    out, store = tmp_path / "run", tmp_path / "store"
    with without_reports(), pytest.raises(Interrupted):
        start_run(tiny(), out, quiet=True, should_stop=asked(1), streaming=Streaming(2, store=str(store)))
    store.rename(tmp_path / "moved")
    said = cli("train", "--resume", out, "--visit", 2)
    assert said.status == 2
    assert str(store) in said.text


def test_what_a_killed_run_has_left_of_its_cache_is_removed_when_the_run_goes_on(tmp_path):
    out = tmp_path / "run"
    with without_reports():
        with pytest.raises(Interrupted):
            start_run(tiny(), out, quiet=True, should_stop=asked(1), streaming=Streaming(2))
        (out / "checkpoints" / ".cache-left").mkdir()
        (out / "checkpoints" / ".cache-left" / "step-0").write_bytes(b"a message")
        resume_run(out, quiet=True, streaming=Streaming(2))
    assert not list((out / "checkpoints").glob(".cache-*"))


def test_a_plan_has_no_visit_longer_than_an_epoch():
    said = cli("plan", *flags(), "--visit", 1000, "--no-measure")
    assert said.status == 0
    assert "visits of 3 steps" in said.text  # 60 images in batches of 20


REFUSED = {
    "no step": (["--visit", 0], "visit must be"),
    "a store without a visit": (["--store", "ram"], "--visit N"),
    "a rule whose blocks wait": (["--visit", 2, "--rule", "backprop"], "gradient from the last to the first"),
    "another rule whose blocks wait": (
        ["--visit", 2, "--rule", "direct-feedback-alignment"],
        "waits for the error of the output",
    ),
    "a scope that waits": (["--visit", 2, "--scope", "neighbour"], "gradient of the next one"),
    "a chained twin without its delay": (["--visit", 3, "--twin", "chain", "--message-delay", 2], "--message-delay 3"),
    "memory, and what it chooses": (["--memory", "4GiB", "--blocks-in-memory", 2], "--memory chooses"),
    "memory without a unit": (["--memory", "2"], "such as 4GiB"),
    "a measured cut": (["--visit", 2, "--balance", "time"], "--balance count"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_streamed_is_refused_before_there_is_a_folder(tmp_path, given, message):
    said = cli("train", *flags(), "--output", tmp_path / "run", *given)
    assert said.status == 2
    assert message in said.text
    assert not (tmp_path / "run").exists()


def test_a_store_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"store.*new or empty"):
        start_run(tiny(), tmp_path / "run", quiet=True, streaming=Streaming(2, store=str(tmp_path / "store")))
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["mine.txt"]


def test_a_run_that_goes_on_keeps_its_store(tmp_path):
    out = tmp_path / "run"
    with without_reports(), pytest.raises(Interrupted):
        start_run(tiny(), out, quiet=True, should_stop=asked(1), streaming=Streaming(2))
    with pytest.raises(InputError, match="leave out --store"):
        resume_run(out, quiet=True, streaming=Streaming(2, store=str(tmp_path / "elsewhere")))


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(180)
def test_each_of_two_processes_streams_its_own_blocks(tmp_path, reference):
    out, at = tmp_path / "run", tmp_path / "settings.json"
    config().save(at)
    streamed = ("--processes", 2, "--placement", 2, 1, "--visit", 2)
    with started([command("train", "--config", at, "--output", out, *streamed, "--quiet")]) as running:
        status, _, err = finished(running)[0]
    assert status == 0, err
    assert_same_run(out, reference)
    assert summary(out)["placement"] == [2, 1]
    assert not list((out / "store").glob("*"))  # only while it trains
    assert in_order(out)


def in_order(run: Path) -> bool:
    """Whether blocks took their steps, as they were recorded, in an order of which equal weights follow."""
    timeline = read_timeline(run)
    assert timeline is not None
    begun: dict[Pair, float] = {}
    for segment in timeline.segments:
        for step in segment.steps:
            for span in step.spans:
                pair = (-1 if span.block is None else span.block, step.step - 1)
                # The last process waits for its message within its step, which goes on in a second span then.
                if span.kind == COMPUTE and (pair not in begun or segment.process == 1):
                    begun[pair] = segment.start + span.begin
    assert len(begun) == 3 * STEPS
    return respects(sorted(begun, key=begun.__getitem__))
