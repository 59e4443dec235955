"""Sets of text on the hub, by name. The hub is played by `datasets` on tables made here."""

import pytest
from data_files import serve_hub

from blocklocal._common.errors import InputError
from blocklocal.cli import main
from blocklocal.data.text_set import load_text_set

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def split(first: int, count: int, column: str = "text", **more):
    rows = [f"The story of the number {first + i} says {i} and ends. " * 6 for i in range(count)]
    return datasets.Dataset.from_dict({column: rows, "n": list(range(count)), **more})


def test_rows_are_documents_and_splits_are_parts(monkeypatch):
    asked = serve_hub(monkeypatch, train=split(0, 30), validation=split(100, 5), test=split(200, 4), extra=split(9, 1))
    found = load_text_set("owner/stories:small", vocabulary=300, length=8)
    assert asked == [("owner/stories", "small")]
    assert [part.facts.documents for part in (found.train, found.validation, found.test)] == [30, 5, 4]
    assert found.name == "stories:small"
    assert "number 100" in found.tokenizer.decode(found.validation.tokens[:40].tolist())
    assert "left out: the splits extra" in found.account


def test_a_set_of_one_split_is_parted_by_documents(monkeypatch):
    serve_hub(monkeypatch, train=split(0, 100))
    found = load_text_set("owner/stories", vocabulary=300, length=8)
    counts = [part.facts.documents for part in (found.train, found.validation, found.test)]
    assert sum(counts) == 100
    assert all(counts)


def test_tokens_are_kept_by_what_the_set_holds(monkeypatch, tmp_path):
    serve_hub(monkeypatch, train=split(0, 70))
    first = load_text_set("owner/stories", vocabulary=300, length=8)
    again = load_text_set("owner/stories", vocabulary=300, length=8)
    assert first.fingerprint() == again.fingerprint()
    serve_hub(monkeypatch, train=split(1, 70))
    assert load_text_set("owner/stories", vocabulary=300, length=8).fingerprint() != first.fingerprint()


def test_empty_rows_are_left_out_and_said(monkeypatch):
    serve_hub(monkeypatch, train=datasets.Dataset.from_dict({"text": ["  ", None, *split(0, 70)["text"]]}))
    assert any("2 empty documents" in line for line in load_text_set("owner/s", vocabulary=300, length=8).account)


def test_the_command_line_trains_on_one(monkeypatch, capsys):
    serve_hub(monkeypatch, train=split(0, 70, column="story"))
    size = ["--vocabulary", "270", "--length", "8", "--width", "16", "--model-options", "layers", "2", "--blocks", "2"]
    run = ["--epochs", "1", "--train-size", "16", "--batch-size", "8", "--no-tensorboard", "--quiet", "--output", "run"]
    assert main(["train", "--data", "owner/stories", "--text", "story", *size, *run]) == 0
    assert main(["evaluate", "run"]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert main(["train", "--data", "owner/stories", "--text", "story", "--stream", *size, *run[:-1], "other"]) == 2
    assert "--stream is for sets of images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("splits", "field", "said"),
    [
        ({"test": split(0, 3)}, "", "has no train split. Its splits are: test"),
        ({"train": split(0, 3, column="story")}, "", "unknown column 'text'"),
        ({"train": split(0, 3)}, "n", "the column 'n' holds int, no text"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(monkeypatch, splits, field, said):
    serve_hub(monkeypatch, **splits)
    with pytest.raises(InputError, match=said):
        load_text_set("owner/stories", field=field, vocabulary=300, length=8)


def test_a_word_that_is_no_name_on_the_hub_is_a_path(monkeypatch):
    asked = serve_hub(monkeypatch, train=split(0, 3))
    with pytest.raises(InputError, match="there is no file or folder stories: give a text"):
        load_text_set("stories")
    assert not asked


def test_a_set_without_images_is_told_how_a_text_is_read(monkeypatch, capsys):
    serve_hub(monkeypatch, train=split(0, 70))
    assert main(["train", "--data", "owner/stories", "--output", "run"]) == 2
    said = capsys.readouterr().err
    assert "has no image column" in said
    assert "--text" in said
