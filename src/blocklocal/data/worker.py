"""A process that decodes images for another one: it is asked on its standard input and answers on its standard output.

A question is a line of JSON (how images are wanted; for each its path, or the number of bytes that follow); an answer
is a line of JSON (shape and changes of each, or why it cannot be used) and the pixels. Nothing is pickled, nothing of
the asking program is imported or run, and torch is not loaded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from blocklocal._common.errors import InputError
from blocklocal.data.picture import BadImage
from blocklocal.data.single import Answer, Decoded, Wish, decode_one

_PACKAGE = Path(__file__).parents[2]


class Worker:
    """One such process, and this side of the talk with it."""

    def __init__(self, wish: Wish):
        self.wish = wish
        path = os.pathsep.join(filter(None, (str(_PACKAGE), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "blocklocal.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )

    def decode(self, sources: Sequence[bytes | Path | None]) -> list[Answer]:
        """What becomes of each image.

        Raises:
            InputError: the process ended.
        """
        items = [len(each) if isinstance(each, bytes) else each and str(each) for each in sources]
        question = json.dumps({"mode": self.wish.mode, "size": self.wish.size, "items": items})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(question.encode() + b"\n")
            for each in sources:
                if isinstance(each, bytes):
                    self._process.stdin.write(each)
            self._process.stdin.flush()
            return _read_answers(self._process.stdout)
        except (OSError, ValueError) as error:
            raise InputError(
                f"a process that decodes images ended (status {self._process.poll()}): is there too little memory? "
                "Try again, with a smaller --image-size or fewer images."
            ) from error

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not sent yet is lost
                    continue


def _read_answers(pipe: IO[bytes]) -> list[Answer]:
    found: list[Answer] = []
    for each in json.loads(pipe.readline()):
        if "bad" in each:
            found.append(BadImage(each["bad"]))
            continue
        pixels = np.frombuffer(_exactly(pipe, int(np.prod(each["shape"]))), np.uint8)
        found.append(Decoded(pixels.reshape(each["shape"]), tuple(each["changes"])))
    return found


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise OSError("the other side ended")
    return data


def _answer(answers: Sequence[Answer], pipe: IO[bytes]) -> None:
    said = [
        {"bad": str(each)} if isinstance(each, BadImage) else {"shape": each.pixels.shape, "changes": each.changes}
        for each in answers
    ]
    pipe.write(json.dumps(said).encode() + b"\n")
    for each in answers:
        if isinstance(each, Decoded):
            pipe.write(np.ascontiguousarray(each.pixels).data)
    pipe.flush()


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until no more is asked."""
    for line in questions:
        asked = json.loads(line)
        wish = Wish(asked["mode"], asked["size"])
        sources = [
            _exactly(questions, each) if isinstance(each, int) else each and Path(each) for each in asked["items"]
        ]
        _answer([decode_one(each, wish) for each in sources], answers)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the asking process, which then ends this one
    sys.path = [place for place in sys.path if place != ""]
    serve(sys.stdin.buffer, sys.stdout.buffer)
