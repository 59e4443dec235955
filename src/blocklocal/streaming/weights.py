"""Weights of the user's own model in safetensors files, read and written block by block."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.files import write_text
from blocklocal.block.learner import BlockLearner
from blocklocal.network.neighbours import Neighbours
from blocklocal.schemas import Text, read_json
from blocklocal.training.tensor_file import write_tensors

INDEX = "model.safetensors.index.json"
WHAT = "the index of a model's safetensors files, as Hugging Face libraries write it"


class _Index(Struct):
    weight_map: dict[Text, Text]


class Weights:
    """The tensors of a model by name, each read when it is asked for.

    Args:
        path: a safetensors file, the index of several, or a folder with either (`model.safetensors`).

    Raises:
        InputError: there is no such file, or one is damaged.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._files = _files(self.path)

    def check(self, model: nn.Module) -> None:
        """Refuse weights of another model.

        Raises:
            InputError: names or shapes differ.
        """
        wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        lost = sorted(set(wanted) - set(self._files))
        if lost:
            raise InputError(
                f"{self.path} lacks {len(lost)} of the model's {len(wanted)} tensors ({', '.join(lost[:3])}, …): "
                "give the weights of this model, by the names of its state_dict."
            )
        for name, shape in wanted.items():
            found = self._shape(name)
            if found != shape:
                raise InputError(f"{name} has the shape {found} in {self.path}, and {shape} in the model.")

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Tensors by name, in memory of their own."""
        found = {}
        for name in names:
            with _opened(self._files[name]) as file:
                found[name] = file.get_tensor(name).clone()
        return found

    def _shape(self, name: str) -> list[int]:
        with _opened(self._files[name]) as file:
            return file.get_slice(name).get_shape()


def export(network: Neighbours, model: nn.Module, folder: Path) -> Path:
    """As `Streamed.export`, of any network.

    Args:
        network: whose learners have the content.
        model: the user's module, perhaps without content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"{folder} holds other things: give a new folder.")
    names = {learner.index: names_in_model(learner, model) for learner in network.learners}

    def write(learner: BlockLearner) -> dict[str, str]:
        file = f"model-{learner.index + 1:05d}-of-{network.count:05d}.safetensors"
        state = learner.state_dict()
        tensors = {own: state[name] for name, own in names[learner.index].items()}
        write_tensors(folder / file, tensors)
        return dict.fromkeys(tensors, file)

    files = {name: file for written in network.each(write, optimizers=False) for name, file in written.items()}
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values() if isinstance(t, Tensor))
    content = {"metadata": {"total_size": size}, "weight_map": files}
    write_text(folder / INDEX, json.dumps(content, indent=1) + "\n")
    return folder / INDEX


def names_in_model(learner: BlockLearner, model: nn.Module) -> dict[str, str]:
    """The names of a block's tensors: in the learner → in the user's model, for what both have in their state."""
    own = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    state = learner.state_dict(keep_vars=True).items()
    return {name: own[id(tensor)] for name, tensor in state if name.startswith("block.") and id(tensor) in own}


def _files(path: Path) -> dict[str, Path]:
    """Which file holds which tensor."""
    if path.is_dir():
        one = path / "model.safetensors"
        return _files(one if one.is_file() else path / INDEX)
    if path.suffix == ".json":
        index = read_json(path, _Index, what=WHAT)
        return {name: path.parent / file for name, file in index.weight_map.items()}
    with _opened(path) as file:
        return dict.fromkeys(file.keys(), path)


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no file {path}. Expected weights in the safetensors format.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({error}): it is damaged, or something else."
        ) from error
