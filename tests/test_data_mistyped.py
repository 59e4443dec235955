"""Oracle: the hub, which is asked for `owner/name`, and never for a word that can only be a folder."""

import logging
from types import SimpleNamespace

import pytest
from data_files import hub_split, labels, serve_hub

from blocklocal._common.errors import InputError
from blocklocal.data import load_images

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture
def asked(monkeypatch) -> list:
    return serve_hub(monkeypatch, train=hub_split(0, labels(6)), test=hub_split(100, labels(3)))


@pytest.mark.parametrize(("data", "meant"), [("digit", "digits"), ("Digits", "digits"), ("picss", "pics")])
def test_a_mistyped_name_is_answered_with_the_near_one_and_no_request(data, meant, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    with pytest.raises(InputError, match=f"there is no folder '{data}'. Did you mean '{meant}'"):
        load_images(data)
    assert asked == []


def test_a_mistyped_path_is_answered_with_the_whole_of_the_near_one(asked, tmp_path):
    (tmp_path / "pics").mkdir()
    with pytest.raises(InputError, match=f"Did you mean '{tmp_path / 'pics'}'"):
        load_images(str(tmp_path / "picss"))
    assert asked == []


def test_a_word_like_no_other_is_told_what_can_be_given(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^there is no folder 'qqq'. Give 'digits', .*owner/name"):
        load_images("qqq")
    assert asked == []


@pytest.mark.parametrize("data", ["mnist", "someone/pets", "pets:small"])
def test_what_can_be_a_set_of_the_hub_is_asked_for(data, asked):
    load_images(data)
    assert len(asked) == 1


def test_the_attempts_of_a_request_that_fails_are_not_told_one_by_one(monkeypatch, caplog):
    def fail(*_: str) -> None:
        for name in ("huggingface_hub.utils._http", "urllib3.connectionpool", "datasets.load"):
            logging.getLogger(name).warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no network")

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", fail)
    before = SimpleNamespace(**{name: logging.getLogger(name).level for name in ("datasets", "urllib3")})
    with pytest.raises(InputError, match="ConnectionError: no network"):
        load_images("someone/pets")
    assert "Retrying" not in caplog.text
    assert vars(before) == {name: logging.getLogger(name).level for name in ("datasets", "urllib3")}
