"""Tasks beyond classes in runs: what is saved, and how records, tables and pages name what was measured."""

import json
from pathlib import Path

import pytest
import torch
from report_helpers import epoch, summary, write_run
from run_helpers import tiny
from torch import Tensor, nn

import blocklocal as bl
from blocklocal import InputError, Values
from blocklocal._common.measures import TOP1, main_of
from blocklocal.cli.evaluate import evaluation_lines
from blocklocal.report import write_report
from blocklocal.report.table import aggregate, body, headings, markdown_table
from blocklocal.runs.class_weights import class_weights_of
from blocklocal.runs.looking import load_network
from blocklocal.runs.run import start_run
from blocklocal.runs.saved import load_facts
from blocklocal.runs.sets import load_data
from blocklocal.training.loop import Stopped

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = 5 + X[:, :2].cumsum(1)


def network() -> bl.BlockLocal:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    return bl.BlockLocal(bl.split(model, blocks=3), values=Values.of(Y), example=X[:2])


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)]


class TestClassWeights:
    def test_balanced_ones_are_fitted_on_the_training_split_and_kept_with_the_run(self, tmp_path: Path) -> None:
        config = tiny(class_weights="balanced", epochs=1)
        start_run(config, tmp_path / "run", quiet=True)
        expected = bl.balanced(load_data(config).train.labels, 10)
        assert load_facts(tmp_path / "run").class_weights == pytest.approx(expected)
        _, _, loaded = load_network(tmp_path / "run", None, "cpu")
        assert loaded.targets.class_weights == pytest.approx(expected)
        plain = tiny(epochs=1)
        start_run(plain, tmp_path / "plain", quiet=True)
        one, other = (json.loads((tmp_path / run / "metrics.jsonl").read_text()) for run in ("run", "plain"))
        assert one["loss"] != other["loss"]
        assert "class_weights" not in json.loads((tmp_path / "plain" / "data.json").read_text())

    def test_numbers_are_one_per_class(self) -> None:
        labels = torch.tensor([0, 1, 2])
        assert class_weights_of("1,2.5,0", labels, 3) == (1.0, 2.5, 0.0)
        assert class_weights_of("", labels, 3) is None
        with pytest.raises(InputError, match="3 finite numbers"):
            class_weights_of("1,2", labels, 3)
        with pytest.raises(InputError, match="balanced, or one number per class"):
            tiny(class_weights="heavy")


class TestRecordsOfValues:
    def test_training_that_is_stopped_in_an_epoch_goes_on_with_the_same_sums(self, tmp_path: Path) -> None:
        whole = network()
        expected = bl.Trainer(whole, epochs=2).fit(batches(), batches())
        stopped = network()
        trainer = bl.Trainer(stopped, epochs=2, should_stop=lambda: stopped.steps == 5)
        with pytest.raises(Stopped):
            trainer.fit(batches(), batches())
        bl.save(stopped, tmp_path / "saved", trainer=trainer)
        again = network()
        late = bl.Trainer(again, epochs=2)
        late.prepare(batches())
        bl.load(again, tmp_path / "saved", trainer=late)
        found = late.fit(batches(), batches())
        for name in ("loss", "train_rmse", "train_mae", "train_r2", "validation_rmse", "validation_r2"):
            assert [record[name] for record in found] == [record[name] for record in expected]

    def test_the_lines_of_an_evaluation_name_the_error(self) -> None:
        net = network()
        found = bl.evaluate(net, batches())
        *blocks, together, last = evaluation_lines("test", ["a", "b", "c"], found)
        assert [float(line.split()[-1]) for line in blocks] == pytest.approx(found.measured["rmse"], abs=1e-3)
        assert together.startswith("ensemble")
        assert last.startswith("test: RMSE ")
        assert "R² " in last
        assert "%" not in "".join([*blocks, together, last])


def of_values(rule: str = "block-local", rmse: float = 2.0, **changes) -> dict:
    row = {name: value for name, value in summary(rule).items() if "top" not in name}
    own = {"test_rmse": rmse, "train_rmse": rmse - 0.5, "block_test_rmse": [rmse + 1, rmse + 0.5, rmse]}
    return {**row, **own, "test_top1": None, "block_test_top1": [], "test_ece": None, "test_r2": 0.9, **changes}


def epoch_of_values(number: int) -> dict:
    record = {name: value for name, value in epoch(number).items() if "top1" not in name}
    return {**record, "train_rmse": [4.0 / number] * 3, "validation_rmse": [5.0 / number, 4.5, None]}


class TestReportOfValues:
    def test_a_page_names_the_error_and_no_accuracy(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", row=of_values(combined_test_rmse=1.75), epochs=[epoch_of_values(k) for k in (1, 2)])
        text = write_report(tmp_path / "run").read_text()
        for part in ("block-local: test RMSE 2.000.", "validation RMSE", "test R²", "<td>2.500</td>", "1.750"):
            assert part in text, part
        assert "top-1" not in text.replace("Test top-1 from", "")

    def test_a_page_of_an_unfinished_run_is_written_too(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", row=None, epochs=[epoch_of_values(1)])
        assert "<th>train RMSE</th>" in write_report(tmp_path / "run").read_text()

    def test_the_smallest_error_is_best_and_a_gap_above_zero_is_better(self) -> None:
        rows = [of_values("frozen", 3.0), of_values("backprop", 1.5), of_values("block-local", 2.0)]
        lines = aggregate(rows)
        assert [line["rule"] for line in lines] == ["backprop", "block-local", "frozen"]
        assert (lines[1]["gap_to_backprop"], lines[1]["above_control"]) == (-0.5, 1.0)
        assert headings(lines)[1] == "test RMSE"
        assert body(lines)[1][1:4] == ["2.000 (1 seed)", "-0.500", "+1.000"]
        assert "test RMSE" in markdown_table(rows)
        assert "ECE" not in markdown_table(rows)  # values have none

    def test_accuracy_is_meant_where_nothing_else_is_there(self) -> None:
        assert main_of([{}]) is TOP1
        assert main_of([{"validation_top1": [None], "validation_rmse": [1.0]}]).name == "rmse"
        assert headings(aggregate([summary()]))[1] == "test %"
