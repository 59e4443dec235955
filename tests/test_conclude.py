"""Oracle: the summary. After the last step, nothing that only shows can cost a result."""

import errno
import os
from pathlib import Path

import pytest
from run_helpers import cli, flags, summary, tiny, weights, whole

from blocklocal.runs.compare import compare
from blocklocal.runs.run import resume_run

SHOWS = {
    "the report": "blocklocal.report.write_report",
    "a figure": "blocklocal.report.plots.to_svg",
    "the examples": "blocklocal.runs.conclude.choose_examples",
}
ERRORS = {
    "a full disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "a library's mistake": ValueError("Key backend: nonsense"),
    "no memory": MemoryError(),
    "a name that is no UTF-8": UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),
}


def failing(error: BaseException):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", SHOWS)
def test_what_only_shows_may_fail(tmp_path, monkeypatch, caplog, place, error):
    with monkeypatch.context() as patch:
        patch.setattr(SHOWS[place], failing(ERRORS[error]))
        said = cli("train", *flags(epochs=1), "--quiet", "--output", tmp_path / "run")
    assert said.status == 0, said.text
    assert summary(tmp_path / "run")["finished"]
    assert "The result is safe" in caplog.text
    assert not list((tmp_path / "run").glob(".*.part"))
    assert cli("report", tmp_path / "run").status == 0


class Killed(BaseException):
    """The process was gone."""


@pytest.mark.parametrize("place", [SHOWS["the report"], SHOWS["the examples"]])
def test_a_run_killed_between_summary_and_report_gets_its_report_from_resume(tmp_path, monkeypatch, place):
    with monkeypatch.context() as patch:
        patch.setattr(place, failing(Killed()))
        with pytest.raises(Killed):
            whole(tiny(epochs=1), tmp_path / "run")
    before, trained = summary(tmp_path / "run"), weights(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()
    said = cli("train", "--resume", tmp_path / "run", "--quiet")
    assert said.status == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 0
    assert (tmp_path / "run" / "examples.json").exists()
    assert summary(tmp_path / "run") == before
    assert weights(tmp_path / "run").keys() == trained.keys()
    assert cli("train", "--resume", tmp_path / "run").status == 2  # now there is nothing left to do


def test_a_report_that_a_kill_prevented_is_written_also_where_processes_are_asked_for(tmp_path):
    whole(tiny(epochs=1), tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    assert cli("train", "--resume", tmp_path / "run", "--processes", 2, "--quiet").status == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_a_comparison_keeps_its_rows_where_its_report_fails(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr("blocklocal.report.write_comparison", failing(OSError(28, "No space left on device")))
        rows = compare(tiny(epochs=1), ("frozen",), (0,), tmp_path / "c", quiet=True)
    assert len(rows) == 1
    assert f"blocklocal report {tmp_path / 'c'}" in caplog.text
    assert cli("report", tmp_path / "c").status == 0


def test_resuming_a_finished_run_without_a_report_does_not_train(tmp_path):
    whole(tiny(epochs=1), tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    before = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    resume_run(tmp_path / "run", quiet=True)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == before
    assert Path(tmp_path / "run" / "report.html").exists()
