"""Oracle: a Python that has none of the optional libraries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from report_helpers import epoch, summary, write_run

from blocklocal._common.extras import EXTRAS

SMOKE = Path(__file__).parents[1] / ".ci" / "core_only.py"
BLOCK = f"import sys; sys.path.insert(0, {str(SMOKE.parent)!r}); import core_only; core_only.block({{names}})\n"


def python(code: str, names: list[str]) -> subprocess.CompletedProcess[str]:
    script = BLOCK.format(names=names) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)


def test_the_core_trains_evaluates_and_saves_without_any_optional_library() -> None:
    ended = subprocess.run([sys.executable, SMOKE], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert "trained without" in ended.stdout


def test_a_report_is_written_with_the_libraries_of_the_report_alone(tmp_path) -> None:
    run = write_run(tmp_path / "runs" / "one", row=summary(), epochs=[epoch(1), epoch(2)], examples=True)
    (run.parent / "compare.json").write_text(json.dumps([{**summary(), "run": "one"}]))
    others = [name for extra in ("cli", "data") for name in EXTRAS[extra] if name != "PIL"]  # matplotlib brings PIL
    code = f"""
from pathlib import Path
from blocklocal.report import write_comparison, write_report
print(write_report(Path({str(run)!r})), write_comparison(Path({str(run.parent)!r})))
"""
    ended = python(code, others)
    assert ended.returncode == 0, ended.stderr
    assert all((folder / "report.html").stat().st_size for folder in (run, run.parent))


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("cli", "from blocklocal.cli.main import main; sys.exit(main(['recipes']))"),
        ("data", "import blocklocal; blocklocal.load_images('digits')"),
        ("report", "from blocklocal.report import write_report; write_report('runs/none')"),
        ("report", "from blocklocal.report import write_comparison; write_comparison('runs/none')"),
        ("report", "from blocklocal.cli.main import main; sys.exit(main(['train', '--output', 'never']))"),
    ],
)
def test_what_is_missing_is_said_before_any_work(extra, code, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = python(code, list(EXTRAS[extra]))
    assert ended.returncode != 0
    assert f'pip install "blocklocal[{extra}]"' in ended.stderr
    assert f"pip install '.[{extra}]' in the checkout" in ended.stderr
    assert not list(tmp_path.iterdir())
