"""Accuracy per class and the confusion matrix of a page. Oracle: counts small enough to reckon by hand."""

import json

import pytest
from report_helpers import CONFUSION, epoch, page, section, summary, write_run

from blocklocal._common.errors import InputError
from blocklocal.report.classes import MISTAKES, MOST, class_section
from blocklocal.report.html import write_comparison, write_report
from blocklocal.schemas.run import Confusion


def classes(counts, names=("cat", "dog", "bird")) -> Confusion:
    return Confusion("classes", list(names), counts)


def finished(folder, confusion=CONFUSION, **changes):
    run = write_run(folder, row=summary(**changes), epochs=[epoch(1), epoch(2)])
    if confusion is not None:
        (run / "confusion.json").write_text(json.dumps(confusion))
    return run


def test_every_class_has_its_accuracy_and_what_it_is_taken_for_and_the_worst_comes_first():
    found = class_section(classes([(0, 0, 9), (0, 1, 1), (1, 1, 2), (1, 2, 6), (2, 2, 4)]))
    assert found is not None
    rows = [(row["name"], row["accuracy"], *row["cells"]) for row in found["rows"]]
    assert rows == [
        ("dog", "25.0", "8", "66.7", "bird (6)"),
        ("cat", "90.0", "10", "100.0", "dog (1)"),
        ("bird", "100.0", "4", "40.0", "–"),
    ]


def test_a_class_that_is_never_predicted_has_no_share_of_right_answers():
    found = class_section(classes([(0, 1, 3), (1, 1, 3)], ("cat", "dog")))
    assert found is not None
    assert found["rows"][0]["cells"] == ["3", "–", "dog (3)"]


def test_a_class_without_a_test_image_is_counted_and_not_listed():
    found = class_section(classes([(0, 0, 3)]))
    assert found is not None
    assert [row["name"] for row in found["rows"]] == ["cat"]
    assert (found["count"], found["untested"]) == (1, 2)


def test_cells_of_the_matrix_carry_counts_and_the_share_of_their_row():
    found = class_section(classes([(0, 0, 9), (0, 1, 1)]))
    assert found is not None
    [(name, cells), *_] = found["matrix"]["rows"]
    assert name == "cat"
    assert [(text, share) for text, share, _ in cells] == [("9", 0.9), ("1", 0.1), ("", 0)]
    assert cells[1][2] == "cat taken for dog: 1 of 10"


@pytest.mark.parametrize(("count", "matrix"), [(MOST, True), (MOST + 1, False)])
def test_of_many_classes_only_the_worst_are_shown(count, matrix):
    # Class k is right k times in 100, and taken for the next one otherwise.
    counts = [(k, answered, n) for k in range(count) for answered, n in ((k, k), ((k + 1) % count, 100 - k)) if n]
    found = class_section(classes(counts, [f"c{k}" for k in range(count)]))
    assert found is not None
    assert (found["matrix"] is not None) == matrix
    assert [row["name"] for row in found["rows"]] == [f"c{k}" for k in range(MOST)]
    expected = [] if matrix else [f"c{k} taken for c{k + 1}: {100 - k} of 100" for k in range(MISTAKES)]
    assert found["mistakes"] == expected


def test_a_page_of_many_classes_says_how_many_there_are(tmp_path):
    names = [f"c{k}" for k in range(100)]
    run = finished(tmp_path / "run", {"of": "classes", "names": names, "counts": [[k, k, 5] for k in range(100)]})
    text = section(page(write_report(run)), "classes")
    assert "The 30 worst of 100 classes" in text
    assert 'class="matrix"' not in text


def test_binary_labels_have_a_row_each_and_no_matrix(tmp_path):
    # smiles: 3 no said no, 1 no said yes, 2 yes said yes, 2 yes said no. hat: always no, and said so.
    counts = [[0, 0, 3], [0, 1, 1], [1, 0, 2], [1, 1, 2], [2, 2, 8]]
    stored = {"of": "labels", "names": ["smiles", "hat"], "counts": counts}
    found = class_section(Confusion("labels", ["smiles", "hat"], [(a, b, n) for a, b, n in counts]))
    assert found is not None
    assert found["matrix"] is None
    rows = [(row["name"], row["accuracy"], *row["cells"]) for row in found["rows"]]
    assert rows == [("smiles", "62.5", "8", "4", "50.0", "66.7"), ("hat", "100.0", "8", "0", "–", "–")]
    assert "Every label" in section(page(write_report(finished(tmp_path / "run", stored))), "classes")


def test_class_names_are_escaped(tmp_path):
    text = section(page(write_report(finished(tmp_path / "run"))), "classes")
    assert "&lt;b&gt;fish&lt;/b&gt;" in text
    assert "<b>fish" not in text


def test_a_run_of_an_older_version_has_a_report_that_says_what_is_missing(tmp_path):
    text = section(page(write_report(finished(tmp_path / "run", None))), "classes")
    assert "an older version" in text


def test_a_comparison_shows_the_classes_of_one_run_per_rule(tmp_path):
    rows = [summary(rule, seed) for rule in ("block-local", "frozen") for seed in (0, 1)]
    for row in rows:
        finished(tmp_path / f"{row['rule']}-seed{row['seed']}", rule=row["rule"], seed=row["seed"])
    (tmp_path / "compare.json").write_text(json.dumps(rows))
    assert section(page(write_comparison(tmp_path)), "classes").count('class="matrix"') == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": [[0, 3, 1]]}, "row 3, and there are 3 rows"),
        ({"counts": [[0, 0, 1], [0, 0, 2]]}, "twice"),
        ({"counts": [[0, 0, 0]]}, "counts"),
        ({"counts": [[0, 0]]}, "counts"),
        ({"counts": [[0, -1, 5]]}, "counts"),
        ({"of": "labels", "counts": [[0, 2, 1]]}, "another label"),
        ({"of": "colours"}, "of must be"),
    ],
)
def test_damaged_counts_are_refused(tmp_path, change, said):
    run = finished(tmp_path / "run", {**CONFUSION, **change})
    with pytest.raises(InputError, match=rf"confusion\.json.*{said}.*Expected"):
        write_report(run)
