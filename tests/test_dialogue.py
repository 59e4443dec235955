"""Text that asks and answers: what is read, what is asked for, and that losses count the answers alone."""

import json

import numpy as np
import pytest

from blocklocal._common.errors import InputError
from blocklocal.block.target import MISSING
from blocklocal.data.dialogue import is_dialogue, parts_of
from blocklocal.data.documents import Documents, holds_text
from blocklocal.data.text_set import load_text_set
from blocklocal.data.windows import WindowBatches

CONVERSATION = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]}


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ({"prompt": "2+2=", "completion": "4"}, (("2+2=", False), ("4", True))),
        ({"question": "Why?", "answer": "So."}, (("Why?", False), ("So.", True))),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, (("Add.\n\n1 1\n\n", False), ("2", True))),
        ({"instruction": "Add.", "input": "", "output": "2"}, (("Add.\n\n", False), ("2", True))),
        (
            CONVERSATION,
            (("user: ", False), ("Hi", False), ("\n\n", False), ("assistant: ", False), ("Yes?", True), ("\n\n", True)),
        ),
    ],
)
def test_answers_are_asked_for_and_all_else_is_read(line, parts):
    assert is_dialogue(line)
    assert parts_of(line, "here") == parts


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": 5, "completion": "4"}, "here: the field 'prompt' holds 5. Expected a text"),
        ({"messages": "Hi"}, "messages must be a list of objects"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no message has the role 'assistant'"),
    ],
)
def test_what_answers_nothing_is_refused(line, said):
    with pytest.raises(InputError, match=said):
        parts_of(line, "here")


@pytest.fixture
def chat(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    lines = [json.dumps({"prompt": f"PROMPT {i} ", "completion": f"answer {i}"}) for i in range(200)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    return tmp_path / "chat.jsonl"


def test_a_plain_text_field_comes_before_a_dialogue(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "T", "prompt": "P", "completion": "C"}))
    assert [document.text for document in Documents(tmp_path)] == ["T"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "P", "completion": "C"}))
    assert holds_text(tmp_path)
    assert [document.text for document in Documents(tmp_path)] == ["PC"]


def test_every_answer_is_asked_for_once_and_no_prompt_is(chat):
    data = load_text_set(chat, tokenizer="bytes", length=16)
    tokens, asked = data.train.tokens, data.train.asked
    answers = data.tokenizer.decode(tokens[asked == 1])
    prompts = data.tokenizer.decode(tokens[asked == 0])
    assert "PROMPT" not in answers
    assert "answer" not in prompts
    assert answers.count("answer") == prompts.count("PROMPT") == data.train.facts.documents
    x, y = next(iter(WindowBatches(data.train, batch_size=4)))
    place = 16 * np.arange(4)[:, None] + np.arange(1, 17)
    assert ((y == MISSING).numpy() == (asked[place] == 0)).all()
    known = y != MISSING
    assert (y[:, :-1][known[:, :-1]] == x[:, 1:][known[:, :-1]]).all()


def test_plain_text_keeps_no_second_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / "texts" / f"{i}.txt").write_text("Some words of a text. " * 9)
    assert load_text_set(tmp_path / "texts", tokenizer="bytes", length=8).train.asked is None
    assert not list(tmp_path.glob("cache/blocklocal/*/*.asked"))


def test_a_dialogue_trains_from_the_command_line(chat, monkeypatch, capsys):
    from blocklocal.cli import main

    monkeypatch.chdir(chat.parent)
    size = [
        "--tokenizer",
        "bytes",
        "--length",
        "16",
        "--width",
        "16",
        "--model-options",
        "layers",
        "2",
        "--blocks",
        "2",
    ]
    run = ["--epochs", "2", "--batch-size", "8", "--no-tensorboard", "--output", "run", "--quiet"]
    assert main(["train", "--data", "chat.jsonl", "--tokenizer", "bytes", *size, *run]) == 0
    assert "test perplexity" in capsys.readouterr().out
