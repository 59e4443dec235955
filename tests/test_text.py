"""Oracle: the files themselves. Every document is in one part, and every symbol stands for its character."""

import pytest

from blocklocal import InputError
from blocklocal.data.text import UNKNOWN, encode, find_documents, load_text


@pytest.fixture
def folder(tmp_path):
    for i in range(40):
        kind = (".txt", ".rst", ".md", ".rst.txt")[i % 4]
        path = tmp_path / "docs" / f"part{i % 3}" / f"d{i}{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"document {i}\n" + "abc" * i + ("é" if i == 5 else ""))
    return tmp_path / "docs"


def text_of(corpus, part):
    return "".join("\0" if i == UNKNOWN else corpus.vocabulary[i - 1] for i in corpus.parts[part].tolist())


def test_documents_are_found_by_suffix_in_every_folder(folder):
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "notes.md").mkdir()
    names = [path.name for path in find_documents(folder)]
    assert len(names) == 40
    assert {"d0.txt", "d1.rst", "d2.md", "d3.rst.txt"} < set(names)


def test_parts_share_no_document_and_leave_none_out(folder):
    corpus = load_text(folder)
    named = [name for names in corpus.documents.values() for name in names]
    assert sorted(named) == sorted(path.relative_to(folder).as_posix() for path in find_documents(folder))
    assert len(named) == len(set(named))
    assert min(len(names) for names in corpus.documents.values()) >= 1
    assert len(corpus.documents["train"]) > 25


def test_a_part_holds_the_characters_of_its_documents_with_an_end_after_each(folder):
    corpus = load_text(folder)
    for part, names in corpus.documents.items():
        expected = "".join((folder / name).read_text() + "\0" for name in names)
        vocabulary = set(corpus.vocabulary)
        assert text_of(corpus, part) == "".join(c if c in vocabulary else "\0" for c in expected)


def test_adding_a_document_moves_none_of_the_others(folder):
    before = load_text(folder).documents
    (folder / "new.txt").write_text("more")
    after = load_text(folder).documents
    for part, names in before.items():
        assert set(names) <= set(after[part])


def test_another_seed_is_another_split(folder):
    assert load_text(folder, seed=1).documents != load_text(folder).documents


def test_the_vocabulary_comes_from_training_documents_and_rare_characters_are_unknown(folder):
    corpus = load_text(folder, rare=10)
    training = "".join((folder / name).read_text() for name in corpus.documents["train"])
    assert list(corpus.vocabulary) == sorted(c for c in set(training) if training.count(c) >= 10)
    assert "é" not in corpus.vocabulary
    assert corpus.symbols == len(corpus.vocabulary) + 1
    for part in corpus.parts.values():
        assert part.min() >= 0
        assert part.max() < corpus.symbols


def test_a_symbol_is_its_characters_place_in_the_vocabulary_plus_one():
    assert encode(["ba", "c😀a"], "abc").tolist() == [2, 1, UNKNOWN, 3, UNKNOWN, 1, UNKNOWN]


def test_bytes_that_are_no_text_are_unknown(folder):
    for path in find_documents(folder):
        path.write_bytes(path.read_bytes() + b"\xff\xfe")
    corpus = load_text(folder, rare=100)
    assert all((part == UNKNOWN).any() for part in corpus.parts.values())


def test_facts_count_documents_and_characters(folder):
    corpus = load_text(folder)
    facts = corpus.facts()
    assert facts["documents"] == {part: len(names) for part, names in corpus.documents.items()}
    assert facts["characters"] == {part: len(text) for part, text in corpus.parts.items()}


# --- what cannot be used


def test_too_little_text_says_what_to_install_or_give(folder):
    with pytest.raises(InputError, match=r"fewer than the 5,000,000.*apt install python3-doc.*--text FOLDER"):
        load_text(folder, least=5_000_000)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds 0 characters in 0 documents"):
        load_text(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere: .*--text FOLDER"):
        load_text(tmp_path / "nowhere")


def test_a_text_in_too_few_files_to_split_is_refused(tmp_path):
    (tmp_path / "all.txt").write_text("abc" * 1000)
    with pytest.raises(InputError, match=r"holds 1 documents, too few to split them by document"):
        load_text(tmp_path)


def test_without_the_installed_documentation_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("blocklocal.data.text.INSTALLED", tmp_path)
    with pytest.raises(InputError, match=r"no text was found at .*apt install python3-doc"):
        load_text()


def test_of_several_installed_links_the_largest_documentation_is_read(folder, tmp_path, monkeypatch):
    for version in ("3.9", "3.11"):
        (tmp_path / f"python{version}" / "html").mkdir(parents=True)
    (tmp_path / "python3.9" / "html" / "_sources").mkdir()
    (tmp_path / "python3.11" / "html" / "_sources").symlink_to(folder)
    monkeypatch.setattr("blocklocal.data.text.INSTALLED", tmp_path)
    assert load_text().folder == folder
