"""The files of a checkpoint read back: each held against its checksum, and checked before anything is loaded."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from blocklocal._common.errors import InputError
from blocklocal._common.files import MIB, is_there, open_bytes, read_bytes
from blocklocal._common.finite import is_finite
from blocklocal.schemas import NotJson, check, parse, read_json
from blocklocal.schemas.checkpoint import Checksum, State
from blocklocal.training.advice import OF_RUN, Advice
from blocklocal.training.checksums import checksum, checksum_at, checksum_of
from blocklocal.training.learner_state import kinds
from blocklocal.training.moments import MOMENTS, join
from blocklocal.training.tensor_file import read_tensors

CHECKSUMS, STATE, RANDOM = "checksums.json", "state.json", "rng.pt"
MOST = 2**20 * MIB  # of a file whose size nobody has written down
MOST_STATE = 256 * MIB
DIFFERS = "its content is not what was written: the checksum differs"
WHAT_FILE = "a file of a checkpoint"
WHAT = "the state of a checkpoint, as training writes it"


def write_checksums(folder: Path, known: Mapping[str, Checksum]) -> Path:
    """Note size and checksum of all files of a checkpoint that is being written, and return the path of the list.

    Args:
        known: those that are known already; the other files are read.
    """
    sums = {file.name: known.get(file.name) or checksum_at(file) for file in sorted(folder.iterdir())}
    path = folder / CHECKSUMS
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sums), indent=1))
    return path


@dataclass(frozen=True)
class Files:
    """The files of the checkpoint `path`.

    Attributes:
        sums: their checksums (None: written by a version that had none).
        older: the names of the complete checkpoints before it, oldest first; a message names the last one.
        advice: what messages advise.
    """

    path: Path
    sums: dict[str, Checksum] | None
    older: tuple[str, ...] = ()
    advice: Advice = OF_RUN

    @classmethod
    def open(cls, path: Path, older: Iterable[str] = (), advice: Advice = OF_RUN) -> "Files":
        files = cls(path, None, tuple(older), advice)
        file = path / CHECKSUMS
        if not is_there(file):
            return files
        try:
            return replace(files, sums=read_json(file, dict[str, Checksum], what="checksums"))
        except InputError as error:
            raise files.damaged(CHECKSUMS, error) from error

    def state(self) -> tuple[dict[str, Any], State]:
        """`state.json`, as it is and as it was checked."""
        content = self.read(STATE, MOST_STATE)
        try:
            value = parse(content, gaps=True)
            state = check(value, State, where=STATE, what=WHAT)
        except (NotJson, InputError) as error:
            raise self.damaged(STATE, error) from error
        if self.sums is None and state.described:
            raise self.damaged(CHECKSUMS, "it is missing")
        if self.sums is None:
            logging.getLogger("blocklocal").warning(
                "%s has no checksums (an older version wrote it): damage in its files may go unseen.", self.path
            )
        return value, state

    def weights(self, k: int, wanted: dict[str, Any], parameters: set[str]) -> dict[str, torch.Tensor]:
        """The tensors of block k. Its parameters must be finite.

        Args:
            wanted: `describe` of the block.
        """
        name = f"block-{k}.safetensors"
        tensors = self._file_of_tensors(name)
        if kinds(tensors) != wanted:
            raise self.damaged(name, f"other tensors than {STATE} lists")
        for key in parameters & set(tensors):
            if not is_finite(tensors[key]):
                raise self.damaged(name, f"{key} is not finite")
        # In one order in all replicas, which divide them together; safetensors gives another one in every process.
        return {key: tensors[key] for key in wanted}

    def optimizer(self, k: int) -> dict[str, Any]:
        """Optimiser and schedule of block k."""
        name = f"block-{k}.optimizer"
        rest = self.tensors(name, {"optimizer", "schedule"}, also=MOMENTS)
        if MOMENTS not in rest:  # an optimiser without them, or a checkpoint of an older version
            return rest
        moments = self._file_of_tensors(f"block-{k}.moments")
        try:
            return join(rest, moments)
        except ValueError as error:
            raise self.damaged(name, error) from error

    def tensors(self, name: str, keys: set[str], *, also: str | None = None) -> dict[str, Any]:
        """What `torch.save` wrote: an object with these keys, of tensors and plain values.

        Args:
            also: a key that may be there.
        """
        noted, loaded = self._noted(name), None
        try:
            with open_bytes(self.path / name, what=WHAT_FILE, most=noted.bytes if noted else MOST) as (file, size):
                same = noted is None or checksum_of(file, noted) == noted
            if same:  # a large one is mapped, not read into the heap: what is changed gets pages of its own
                loaded = torch.load(self.path / name, map_location="cpu", weights_only=True, mmap=size > MIB)
        except Exception as error:  # torch.load raises whatever the damaged bytes lead its unpickler to
            raise self.damaged(name, error) from error
        if not same:
            raise self.damaged(name, DIFFERS)
        if not isinstance(loaded, dict) or set(loaded) - {also} != keys:
            raise self.damaged(name, f"it holds other things than {', '.join(sorted(keys))}")
        return loaded

    def _file_of_tensors(self, name: str) -> dict[str, torch.Tensor]:
        noted = self._noted(name)
        try:
            tensors, found = read_tensors(self.path / name, most=noted.bytes if noted else MOST, noted=noted)
        except InputError as error:
            raise self.damaged(name, error) from error
        except ValueError as error:
            changed = noted is not None and checksum_at(self.path / name, noted) != noted
            raise self.damaged(name, DIFFERS if changed else str(error)) from error
        if noted is not None and found != noted:
            raise self.damaged(name, DIFFERS)
        return tensors

    def random_state(self) -> torch.Tensor:
        """The state of torch's generator on the CPU."""
        state = self.tensors(RANDOM, {"cpu"})["cpu"]
        try:
            torch.Generator().set_state(state)
        except (RuntimeError, TypeError) as error:
            raise self.damaged(RANDOM, error) from error
        return state

    def read(self, name: str, most: int = MOST) -> bytes:
        """The content of a file, which must be what was written."""
        noted = self._noted(name)
        try:
            content = read_bytes(self.path / name, what=WHAT_FILE, most=noted.bytes if noted else most)
        except InputError as error:
            raise self.damaged(name, error) from error
        if noted is not None and checksum(content, noted) != noted:
            raise self.damaged(name, DIFFERS)
        return content

    def _noted(self, name: str) -> Checksum | None:
        noted = None if self.sums is None else self.sums.get(name)
        if self.sums is not None and noted is None:
            raise self.damaged(name, f"{CHECKSUMS} does not list it")
        return noted

    def damaged(self, file: str, reason: object) -> InputError:
        own = isinstance(reason, str | InputError | NotJson)
        said = str(reason) if own else f"{type(reason).__name__}: {reason}"
        remedy = self.advice.older.format(self.path.name, self.older[-1]) if self.older else self.advice.anew
        return InputError(f"the checkpoint {self.path} cannot be read ({file}: {said[:400].rstrip('.')}). {remedy}")
