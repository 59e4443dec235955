"""Tables over seeds and rules: means, deviations, gaps, labels."""

import statistics
from io import StringIO

import pytest
from report_helpers import summary

from blocklocal._common.errors import InputError
from blocklocal.report.table import aggregate, comparison_table, markdown_table


def test_aggregate_gives_mean_and_sample_deviation():
    tests = [90.0, 92.0, 97.0]
    line = aggregate([summary(seed=i, test=test) for i, test in enumerate(tests)])[0]
    assert line["n"] == 3
    assert line["test_mean"] == pytest.approx(93.0)
    assert line["test_deviation"] == pytest.approx(statistics.stdev(tests))
    assert line["train_mean"] == pytest.approx(95.0)


def test_one_seed_has_no_deviation():
    line = aggregate([summary()])[0]
    assert line["test_deviation"] is None
    assert "±" not in markdown_table([summary()])


def test_gaps_are_differences_of_means():
    rows = [summary(), summary("backprop", test=96.0, blocks=1), summary("frozen", test=70.0)]
    lines = {line["rule"]: line for line in aggregate(rows)}
    assert lines["block-local"]["gap_to_backprop"] == pytest.approx(-6.0)
    assert lines["block-local"]["above_control"] == pytest.approx(20.0)
    assert lines["backprop"]["gap_to_backprop"] is None
    assert lines["backprop"]["above_control"] == pytest.approx(26.0)
    assert lines["frozen"]["above_control"] is None


def test_runs_under_other_conditions_are_not_subtracted():
    rows = [summary(), summary("backprop", test=96.0, epochs=100), summary("frozen", test=70.0, blocks=2)]
    line = next(line for line in aggregate(rows) if line["rule"] == "block-local")
    assert line["gap_to_backprop"] is None
    assert line["above_control"] is None


def test_variants_of_a_rule_are_not_averaged():
    lines = aggregate([summary(test=90.0), summary(test=80.0, objective="variational")])
    assert [line["label"] for line in lines] == [
        "block-local",
        "block-local (objective variational)",
    ]
    assert [line["n"] for line in lines] == [1, 1]


def test_unfinished_and_repeated_runs_are_told_and_not_counted():
    rows = [summary(test=10.0), summary(test=90.0), summary(seed=1, test=50.0, finished=False)]
    line = aggregate(rows)[0]
    assert (line["tests"], line["unfinished"], line["repeated"]) == ([90.0], 1, 1)
    assert "1 unfinished" in markdown_table(rows)


def test_row_without_a_rule_is_refused():
    with pytest.raises(InputError, match="no rule"):
        aggregate([{"test_top1": 3.0}])


def test_markdown_and_console_tables_show_the_same_figures():
    from rich.console import Console

    rows = [summary(seed=i, test=90.0 + i) for i in range(2)] + [summary("frozen", test=70.0)]
    screen = StringIO()
    comparison_table(rows, Console(file=screen, width=140))
    for text in (markdown_table(rows), screen.getvalue()):
        for figure in ("90.5 ± 0.7 (2 seeds)", "70.0 (1 seed)", "+20.5", "92.5", "0.020", "12.5"):
            assert figure in text, figure


def test_console_table_cuts_no_figure_on_a_narrow_screen():
    from rich.console import Console

    rows = [summary("direct-feedback-alignment", seed=i, test=90.0 + i) for i in range(2)]
    screen = StringIO()
    comparison_table([*rows, summary("frozen", test=70.0)], Console(file=screen, width=80))
    first, second = screen.getvalue().splitlines()[3:5]
    assert first.split() == ["direct-feedback-", "90.5", "±", "0.7", "–", "+20.5", "92.5", "0.020", "12.5"]
    assert second.split() == ["alignment", "(2", "seeds)"]
