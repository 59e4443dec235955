"""Figures look the same whatever the surroundings of matplotlib say, and leave those as they were.

Oracles: the same figure drawn in peace, byte for byte; matplotlib's own settings before and after.
"""

import os
import sys
from pathlib import Path

import forking
import matplotlib
import pytest
from report_helpers import epoch, page, summary, write_run

from blocklocal.report import write_report
from blocklocal.report.drawing import own_style
from blocklocal.report.plots import Curve, line_plot, to_svg
from blocklocal.report.save import save_figure

SCRIPT = """
import sys
from pathlib import Path
from blocklocal.report import write_report
from blocklocal.report.drawing import import_matplotlib
print(write_report(Path(sys.argv[1])).stat().st_size)
from torchmetrics.functional.classification import multiclass_calibration_error
matplotlib = import_matplotlib()
print("said:", matplotlib.rcParams["lines.linewidth"], dict.__getitem__(matplotlib.rcParams, "backend"))
"""


def folder_of(path: Path) -> Path:
    return write_run(path, row=summary(), epochs=[epoch(1), epoch(2)], examples=True)


def in_a_new_process(run: Path, here: Path, **environment: str) -> str:
    done = forking.run(
        [sys.executable, "-c", SCRIPT, str(run)],
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        reports=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_report_is_the_same_whatever_matplotlib_is_told(tmp_path):
    """A notebook's backend that is not installed, formulas by a TeX that is not there, and a wide line."""
    run = folder_of(tmp_path / "run")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 9\naxes.prop_cycle: nonsense\n")
    notebook = {"MPLBACKEND": "module://matplotlib_inline.nowhere", "PATH": "/nowhere", "MPLCONFIGDIR": "/dev/null"}
    said = in_a_new_process(run, tmp_path, **notebook)
    assert "said: 9.0" in said, "the user's own settings are kept for the user's own plots"
    there = (run / "report.html").read_bytes()
    write_report(run)
    assert (run / "report.html").read_bytes() == there


def test_settings_for_matplotlib_that_are_no_text_cost_nothing(tmp_path):
    run = folder_of(tmp_path / "run")
    (tmp_path / "matplotlibrc").write_bytes(b"lines.linewidth: \xff\xfe\n")
    said = in_a_new_process(run, tmp_path)
    there = (run / "report.html").read_bytes()
    write_report(run)
    assert (run / "report.html").read_bytes() == there
    assert "said: 1.5" in said


def test_a_backend_that_is_there_stays_the_users(tmp_path):
    assert "svg" in in_a_new_process(folder_of(tmp_path / "run"), tmp_path, MPLBACKEND="svg")


def test_a_style_that_the_program_has_set_is_neither_used_nor_changed(tmp_path):
    calm = to_svg(line_plot([Curve("a", [1, 2, 3], [1, 2, 3])], "x", "y"), "calm")
    run = folder_of(tmp_path / "run")
    page_in_peace = page(write_report(run))
    loud = {"text.usetex": True, "figure.figsize": (1, 1), "axes.facecolor": "red", "font.size": 40, "savefig.dpi": 7}
    with matplotlib.rc_context(loud):
        before = dict(matplotlib.rcParams)
        assert to_svg(line_plot([Curve("a", [1, 2, 3], [1, 2, 3])], "x", "y"), "calm") == calm
        assert page(write_report(run)) == page_in_peace
        assert dict(matplotlib.rcParams) == before


def test_saved_files_do_not_depend_on_the_style(tmp_path):
    figure = line_plot([Curve("a", [1, 2], [1, 2])], "x", "y")
    calm = [path.read_bytes() for path in save_figure(figure, tmp_path, "calm")]
    figure = line_plot([Curve("a", [1, 2], [1, 2])], "x", "y")
    with matplotlib.rc_context({"savefig.facecolor": "red", "savefig.transparent": True, "svg.fonttype": "path"}):
        assert [path.read_bytes() for path in save_figure(figure, tmp_path, "calm")] == calm


def test_the_style_is_put_back_after_a_failure():
    before = dict(matplotlib.rcParams)

    @own_style()
    def fails() -> None:
        matplotlib.rcParams["font.size"] = 3
        raise KeyError("x")

    with pytest.raises(KeyError):
        fails()
    assert dict(matplotlib.rcParams) == before


# --- what is shown


@pytest.mark.parametrize(
    "name", ["caf\udce9", "a\x1b[31mb", "x" * 5_000, "$", "$a$ $b", "_x", "<b>&", "\\$x$"], ids=range(8)
)
def test_any_name_can_be_drawn_and_written(tmp_path, name):
    rule = name.replace("\\", "")[:1000]
    row = summary(rule=rule, data=name, block_names=[name] * 3, model=name)
    other = summary(rule=rule, data=name, model=name, width=7, test=80.0)
    run = write_run(tmp_path / "run", row=row, epochs=[epoch(1), epoch(2)], examples=True)
    beside = write_run(tmp_path / "beside", row=other, epochs=[epoch(1)])
    text = page(write_report(run, beside=[beside]))
    assert "\x1b" not in text
    if "\udce9" in name:
        assert r"caf\xe9" in text


@pytest.mark.parametrize("value", [0.0, -1e40, 1e40, 1e-300, 5e-324, 12345.678])
def test_any_figure_that_a_run_may_hold_can_be_drawn(tmp_path, value):
    records = [{**epoch(n), "loss": [value, -value, 1], "message": [value, None, value]} for n in (1, 2, 7)]
    run = write_run(tmp_path / "run", row=summary(test_nll=value), epochs=records)
    assert "<svg" in page(write_report(run))


def test_an_axis_without_limits_follows_what_is_drawn_later():
    figure = line_plot([Curve("a", [1, 2], [1, 2])], "x", "y")
    assert figure is not None
    figure.axes[0].errorbar([1], [1], yerr=[5])
    low, high = figure.axes[0].get_ylim()
    assert low < -4
    assert high > 6


def test_a_report_whose_file_cannot_be_written_leaves_nothing_half_written(tmp_path):
    run = folder_of(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_report(run)
    assert not [path.name for path in run.iterdir() if path.name.endswith(".part")]
