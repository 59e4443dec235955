"""Text as data: what is read, how it is parted, tokens, windows, and the cache."""

import json
import os
import sys
import threading

import forking
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal.data import token_store
from blocklocal.data.documents import Documents, holds_text
from blocklocal.data.text_set import load_text_set
from blocklocal.data.tokenizer import Tokenizer
from blocklocal.data.windows import WindowBatches
from blocklocal.runs.config import load_config
from blocklocal.runs.sets import load_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Sixty documents of words that tell which one it is."""
    made = tmp_path / "texts"
    made.mkdir()
    for i in range(60):
        (made / f"doc{i:02}.txt").write_text(f"The document of the number {i} says {i} and {i + 1}. " * 8)
    return made


# --- documents


def names_and_texts(path, **settings):
    return [(document.name, document.text) for document in Documents(path, **settings)]


def test_files_lines_and_rows_are_documents_in_order(tmp_path):
    (tmp_path / "b.md").write_text("Second.")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.rst").write_text("First.")
    (tmp_path / "c.jsonl").write_text('{"text": "Third."}\n\n{"text": "Fourth.", "id": 4}\n')
    pq.write_table(pa.table({"n": [1, 2], "text": ["Fifth.", "Sixth."]}), tmp_path / "d.parquet")
    assert names_and_texts(tmp_path) == [
        ("a/x.rst", "First."), ("b.md", "Second."), ("c.jsonl:1", "Third."), ("c.jsonl:3", "Fourth."),
        ("d.parquet:1", "Fifth."), ("d.parquet:2", "Sixth."),
    ]  # fmt: skip


def test_empty_documents_and_other_files_are_left_out_and_said(tmp_path):
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.bin").write_bytes(b"\0\1")
    documents = Documents(tmp_path)
    assert [document.name for document in documents] == ["a.txt"]
    assert documents.left.notes() == ("left out: 1 file that is no text by its name (c.bin), 1 empty document (b.txt)",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9\n", "a.txt, line 1: this is no UTF-8 \\(the byte 0xe9\\)"),
        (b"\0\1\2", "is no text: it holds null bytes"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place_or_left_out_where_asked(tmp_path, content, said):
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_text("Text.")
    with pytest.raises(InputError, match=said):
        list(Documents(tmp_path))
    documents = Documents(tmp_path, skip_bad=True)
    assert [document.name for document in documents] == ["b.txt"]
    assert "no text inside (a.txt)" in documents.left.notes()[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_of_the_encoding_is_read_and_is_no_part_of_the_text(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("Käse", encoding=encoding)
    (tmp_path / "b.jsonl").write_text('{"text": "Brot"}\n{"text": "Öl"}\n', encoding=encoding)
    assert holds_text(tmp_path / "b.jsonl")
    assert names_and_texts(tmp_path) == [("a.txt", "Käse"), ("b.jsonl:1", "Brot"), ("b.jsonl:2", "Öl")]


def test_lines_whose_mark_promises_another_encoding_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe" + '{"text": "Brot"}'.encode("utf-16-le") + b"\x00\xd8a\x00")
    with pytest.raises(InputError, match="this is no UTF-16"):
        list(Documents(tmp_path))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_columns_of_texts_of_every_kind_are_read(tmp_path, kind):
    column = pa.array(["One.", "Two.", "One."]).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert holds_text(tmp_path / "a.parquet")
    assert [text for _, text in names_and_texts(tmp_path)] == ["One.", "Two.", "One."]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "expected an object with the field 'text'"),
        ('{"body": "x"}', "unknown field 'text'.*--text"),
        ('{"text": 5}', "the field 'text' holds 5"),
        ("{", "line 2: this is no JSON"),
        ('{"text": "a \\ud800 b"}', "line 2: the text holds half of a character"),
    ],
)
def test_lines_that_hold_no_text_are_refused_with_their_place(tmp_path, line, said):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match=said):
        list(Documents(tmp_path))


def test_bad_lines_alone_are_left_out_where_asked(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{\n{"text": "y"}\n')
    documents = Documents(tmp_path, skip_bad=True)
    assert [document.text for document in documents] == ["x", "y"]
    assert documents.left.notes() == ("left out: 1 line that is no text inside (a.jsonl:2)",)


def test_a_file_about_the_others_makes_no_text_of_tables(tmp_path):
    (tmp_path / "README.md").write_text("About the tables.")
    assert holds_text(tmp_path)
    pq.write_table(pa.table({"label": [1], "image": [b""]}), tmp_path / "train.parquet")
    assert not holds_text(tmp_path)
    (tmp_path / "more.md").write_text("A text.")
    assert holds_text(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_may_have_a_name_that_is_no_utf_8(folder):
    (folder / os.fsdecode(b"\xff.txt")).write_text("A text of its own. " * 20)
    data = load_text_set(folder, tokenizer="bytes", length=8)
    assert sum(part.facts.documents for part in (data.train, data.validation, data.test)) == 61


def test_a_link_that_leads_nowhere_is_refused(folder):
    (folder / "link.txt").symlink_to("nowhere.txt")
    with pytest.raises(InputError, match=r"cannot read .*link\.txt: .*Remove it"):
        load_text_set(folder)


def test_the_field_of_the_text_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    assert not holds_text(tmp_path)
    assert holds_text(tmp_path, "body")
    assert names_and_texts(tmp_path, field="body") == [("a.jsonl:1", "x")]


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds no text. Give a folder of \.txt"):
        Documents(tmp_path)


# --- tokens


def test_bytes_and_trained_tokens_give_the_text_back():
    text = "Ein Käse für 3 €, 日本\n\tund mehr."
    for tokenizer in (Tokenizer.of_bytes(), Tokenizer.trained([text] * 3, 300)):
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text
        assert max(tokenizer.encode([text])[0]) < tokenizer.size
    assert len(Tokenizer.of_bytes().encode([text])[0]) == len(text.encode())


def test_a_file_that_cuts_and_pads_texts_does_neither_here():
    plain, cutting = Tokenizer.of_bytes(), Tokenizer.of_bytes().inner
    cutting.enable_truncation(4)
    cutting.enable_padding(length=40)
    found = Tokenizer.from_text(cutting.to_str(), "file").encode(["abcdefgh"])
    assert found[0].tolist() == plain.encode(["abcdefgh"])[0].tolist()


def test_a_text_that_a_tokenizer_has_no_tokens_for_is_refused():
    from tokenizers import Tokenizer as Inner
    from tokenizers import models

    with pytest.raises(InputError, match=r"cannot encode a text .*UNK"):
        Tokenizer(Inner(models.WordLevel({"a": 0}))).encode(["b"])
    with pytest.raises(InputError, match="whole characters"):
        Tokenizer.of_bytes().encode(["\udcff"])


def test_a_tokenizer_with_a_number_that_no_network_has_room_for_is_refused(tmp_path):
    told = json.loads(Tokenizer.of_bytes().to_text())
    told["model"]["vocab"]["far"] = 2_000_000_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="numbers its tokens up to 2,000,000,000"):
        Tokenizer.from_file(tmp_path)


def test_a_tokenizer_is_kept_as_the_file_that_others_read(tmp_path):
    tokenizer = Tokenizer.trained(["one two three"] * 9, 270)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_text())
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        again = Tokenizer.from_file(place)
        assert np.array_equal(again.encode(["two one"])[0], tokenizer.encode(["two one"])[0])
        assert again.end == tokenizer.end == 0
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"is no tokenizer\.json"):
        Tokenizer.from_file(tmp_path)


def test_the_size_of_a_vocabulary_has_room_for_all_bytes():
    with pytest.raises(InputError, match="vocabulary must be a whole number of at least 257"):
        Tokenizer.trained(["x"], 256)


# --- parts


def test_parts_share_no_document_and_hold_all_of_them(folder):
    data = load_text_set(folder, vocabulary=300, length=8)
    texts = {role: data.tokenizer.decode(getattr(data, role).tokens) for role in ("train", "validation", "test")}
    for i in range(60):
        homes = [role for role, text in texts.items() if f"number {i} says" in text]
        assert len(homes) == 1, (i, homes)
    assert all(part.facts.documents for part in (data.train, data.validation, data.test))
    assert sum(part.facts.bytes for part in (data.train, data.validation, data.test)) == sum(
        file.stat().st_size for file in folder.iterdir()
    )


def test_the_test_part_is_the_same_whatever_the_seed_and_the_tokenizer_sees_the_training_part_alone(folder):
    one, two = (load_text_set(folder, vocabulary=300, length=8, split_seed=seed, tokenizer="bytes") for seed in (0, 1))
    assert np.array_equal(one.test.tokens, two.test.tokens)
    assert not np.array_equal(one.validation.tokens, two.validation.tokens)
    before = load_text_set(folder, vocabulary=300, length=8)
    held = {document.name for document in Documents(folder)} - set(train_names(folder, before))
    for name in held:
        (folder / name).write_text("qqqq zzzz " * 20)
    assert load_text_set(folder, vocabulary=300, length=8).tokenizer.to_text() == before.tokenizer.to_text()


def train_names(folder, data):
    text = data.tokenizer.decode(data.train.tokens)
    return [document.name for document in Documents(folder) if document.text in text]


def test_files_that_are_called_after_the_parts_are_the_parts(tmp_path):
    for role, word in (("train", "alpha"), ("valid", "beta"), ("test", "gamma")):
        (tmp_path / f"wiki.{role}.txt").write_text(f"{word} " * 200)
    data = load_text_set(tmp_path, tokenizer="bytes", length=8)
    for part, word in ((data.train, "alpha"), (data.validation, "beta"), (data.test, "gamma")):
        assert set(data.tokenizer.decode(part.tokens).split()) == {word}


@pytest.mark.parametrize("other", ["test", "validation"])
def test_of_two_parts_one_is_the_test_part_and_validation_is_held_out_of_training(tmp_path, other):
    for role, word in (("train", "alpha"), (other, "beta")):
        (tmp_path / role).mkdir()
        for i in range(60):
            (tmp_path / role / f"{i}.txt").write_text(f"{word} " * 20)
    data = load_text_set(tmp_path, tokenizer="bytes", length=8)
    for part, word in ((data.train, "alpha"), (data.validation, "alpha"), (data.test, "beta")):
        assert set(data.tokenizer.decode(part.tokens).split()) == {word}
    assert data.test.facts.documents == 60
    assert any("no test part" in line for line in data.account) == (other == "validation")


def test_two_files_called_after_parts_have_a_validation_part_too(tmp_path):
    for role, word in (("train", "alpha"), ("test", "beta")):
        (tmp_path / f"{role}.txt").write_text("\n\n".join([f"{word} " * 20] * 60))
    data = load_text_set(tmp_path, tokenizer="bytes", length=8)
    for part, word in ((data.train, "alpha"), (data.validation, "alpha"), (data.test, "beta")):
        assert set(data.tokenizer.decode(part.tokens).split()) == {word}


def test_one_long_file_is_cut_at_blank_lines_and_that_is_said(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(f"Paragraph {i} of the book, with some words in it." for i in range(900)))
    data = load_text_set(file, tokenizer="bytes", length=16)
    assert any("cut at blank lines" in line for line in data.account)
    whole = "".join(data.tokenizer.decode(part.tokens) for part in (data.train, data.validation, data.test))
    assert all(f"Paragraph {i} of" in whole for i in range(900))


def test_a_text_that_is_too_short_is_refused_with_what_there_is(tmp_path):
    (tmp_path / "a.txt").write_text("Three short words.")
    with pytest.raises(InputError, match=r"tokens in .* not one window of 128 and the token behind it: give more text"):
        load_text_set(tmp_path, tokenizer="bytes")


# --- the cache


def test_tokens_are_made_once_and_anew_when_a_file_changes(folder, monkeypatch):
    first = load_text_set(folder, vocabulary=300, length=8)
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("encoded again"))
    again = load_text_set(folder, vocabulary=300, length=4)
    assert np.array_equal(first.train.tokens, again.train.tokens)
    assert isinstance(again.train.tokens, np.memmap)
    monkeypatch.undo()
    (folder / "doc00.txt").write_text("Something else. " * 20)
    os.utime(folder / "doc00.txt", ns=(1, 1))
    assert first.fingerprint() != load_text_set(folder, vocabulary=300, length=8).fingerprint()


def test_two_commands_at_once_both_have_a_whole_store(folder):
    found, gate = [], threading.Barrier(2)

    def load():
        gate.wait()
        found.append(load_text_set(folder, vocabulary=300, length=8).fingerprint())

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_damaged_store_is_made_again(folder, caplog):
    first = load_text_set(folder, vocabulary=300, length=8)
    expected = np.array(first.train.tokens)
    (file,) = folder.parent.glob("cache/blocklocal/text-*/train.bin")
    file.write_bytes(b"xx")
    again = load_text_set(folder, vocabulary=300, length=8)
    assert np.array_equal(again.train.tokens, expected)
    assert "made again" in caplog.text


def test_a_kill_while_tokens_are_written_leaves_no_store(folder, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(token_store, "_write_facts", die)
    with pytest.raises(KeyboardInterrupt):
        load_text_set(folder, vocabulary=300, length=8)
    assert not list(folder.parent.glob("cache/blocklocal/*"))


# --- windows


def test_targets_are_the_next_tokens_and_an_epoch_shows_every_window_once(folder):
    data = load_text_set(folder, tokenizer="bytes", length=16)
    batches = WindowBatches(data.train, batch_size=4, shuffle=True, seed=3)
    seen = []
    for x, y in batches.epoch(0):
        assert x.dtype == torch.int64
        assert torch.equal(x[:, 1:], y[:, :-1])
        seen += x.tolist()
    assert sum(map(len, seen)) == 16 * len(data.train)
    text = "".join(map(chr, data.train.tokens))
    assert all("".join(map(chr, row)) in text for row in seen)
    assert len({tuple(row) for row in seen}) <= len(seen) == len(data.train)
    assert [x.tolist() for x, _ in batches.epoch(0, 2)] == [x.tolist() for x, _ in batches.epoch(0)][2:]
    assert [x.tolist() for x, _ in batches.epoch(0)] != [x.tolist() for x, _ in batches.epoch(1)]


def test_fewer_windows_are_spread_over_the_whole_part(folder):
    data = load_text_set(folder, tokenizer="bytes", length=16, test_size=3)
    rows = [row for x, _ in WindowBatches(data.test, batch_size=2) for row in x.tolist()]
    places = [bytes_of(data.test.tokens).find(bytes(row)) for row in rows]
    assert len(rows) == 3
    assert places[0] == 0
    assert places[-1] > len(data.test.tokens) / 2


def bytes_of(tokens):
    return bytes(int(token) % 256 for token in tokens)


def test_more_windows_than_there_are_cannot_be_asked_for(folder):
    with pytest.raises(InputError, match=r"1,000,000 windows are asked for as the train part"):
        load_text_set(folder, tokenizer="bytes", length=16, train_size=10**6)


# --- as a run


def test_a_text_trains_is_measured_and_resumed_from_the_command_line(folder, monkeypatch, capsys):
    from blocklocal.cli import main

    monkeypatch.chdir(folder.parent)
    size = ["--vocabulary", "300", "--length", "8", "--width", "16", "--model-options", "layers", "2", "--blocks", "2"]
    short = ["--epochs", "1", "--train-size", "40", "--batch-size", "8", "--no-tensorboard", "--output", "run"]
    assert main(["train", "--data", "texts", *size, *short]) == 0
    said = capsys.readouterr().out
    assert "test perplexity" in said
    assert "bits per byte" in said
    summary = json.loads((folder.parent / "run" / "summary.json").read_text())
    assert len(summary["block_test_perplexity"]) == 2
    assert summary["twin"] == "shared"
    assert summary["test_bits_per_byte"] > 0
    assert Tokenizer.from_file(folder.parent / "run").size == 300
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 0
    assert "perplexity" in capsys.readouterr().out
    other = folder.parent / "other"
    other.mkdir()
    for i in range(40):
        (other / f"{i}.txt").write_text(f"Another document, number {i}, with words. " * 4)
    assert main(["evaluate", "run", "--data", "other"]) == 0
    assert "other (test): perplexity" in capsys.readouterr().out


def test_a_text_that_has_changed_is_read_with_the_tokens_of_the_run(folder, monkeypatch, capsys):
    """Trained anew, the tokens would have other numbers than those that the network has learnt."""
    from blocklocal.cli import main

    monkeypatch.chdir(folder.parent)
    size = ["--vocabulary", "300", "--length", "8", "--width", "16", "--model-options", "layers", "2", "--blocks", "2"]
    short = ["--epochs", "2", "--lr", "0.01", "--batch-size", "8", "--no-tensorboard", "--output", "run"]
    assert main(["train", "--data", "texts", *size, *short]) == 0
    for file in sorted(folder.iterdir())[:6]:
        file.write_text(file.read_text().replace("document", "tnemucod zyzzyva qoph"))
    own, now = Tokenizer.from_file(folder.parent / "run"), load_text_set(folder, vocabulary=300).tokenizer
    assert own.to_text() != now.to_text()
    config = load_config(folder.parent / "run")
    assert load_data(config).tokenizer.to_text() == now.to_text()
    assert load_data(config, folder.parent / "run").tokenizer.to_text() == own.to_text()
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 0
    said = capsys.readouterr().out
    summary = json.loads((folder.parent / "run" / "summary.json").read_text())
    assert float(said.split("perplexity ")[1].split()[0]) < 2 * summary["test_perplexity"]
    assert main(["train", "--resume", "run", "--epochs", "3"]) == 2
    assert "--accept-changes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_a_text_trains_to_the_same_figures_in_processes_and_one_block_at_a_time(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    size = ["--vocabulary", "300", "--length", "8", "--width", "16", "--model-options", "layers", "2", "--blocks", "2"]
    short = ["--epochs", "1", "--train-size", "40", "--batch-size", "8", "--no-tensorboard", "--message-delay", "2"]
    found = {}
    for name, more in (("one", []), ("visits", ["--visit", "2"]), ("processes", ["--processes", "2"])):
        command = ["train", "--data", "texts", *size, *short, *more, "--threads", "1", "--output", name]
        done = forking.run([sys.executable, "-m", "blocklocal", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((folder.parent / name / "summary.json").read_text())["block_test_perplexity"]
    assert found["one"] == found["visits"] == found["processes"]
