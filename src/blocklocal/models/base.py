"""What every model offers, and how one is built from its name.

A model is a plain nn.Module. Beside `forward` it lists its pieces, by `units()`: modules which, applied one after the
other, equal `forward`. Every piece takes and returns values *before* the activation (the next piece begins with it),
because those values are the natural parameters of the latent on which blocks exchange messages (method §1). So every
cut between pieces is a good cut. The stem belongs to the first piece and the head to the last.

To add a model: one new file in this package that calls `MODELS.add(name, builder)`.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.ranges import FROM_ONE, WIDTH, check_range
from blocklocal._common.registry import Registry
from blocklocal.models.file import build_from_file, is_reference

Shape = tuple[int, ...]
MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "model", elsewhere="Models of transformers, timm and torchvision are hf:NAME, timm:NAME and torchvision:NAME."
)
"""Builders `(classes, input_shape, width, **options) -> nn.Module`; `input_shape` is that of a sample, see `RANKS`."""
RANKS: dict[str, tuple[int, ...]] = {}
"""What a model reads, where it is not images [C, H, W]: by the dimensions of a sample, 1 for rows of a table [F] and 2
for series [C, T]; `TEXT` for windows of a text [T], which are numbers of tokens."""
IMAGE, TEXT = 3, 0
_SAMPLES = {TEXT: "windows of a text [T]", 1: "rows of a table [F]", 2: "series [C, T]", IMAGE: "images [C, H, W]"}


@runtime_checkable
class UnitModel(Protocol):
    """A module that says itself where it may be cut."""

    def units(self) -> list[tuple[str, nn.Module]]:
        """(name, module) pairs which, applied in order, equal `forward`."""
        ...


class ChainModel(nn.Module):
    """A model whose children, in order, are its pieces."""

    def units(self) -> list[tuple[str, nn.Module]]:
        """The children and their names."""
        return list(self.named_children())

    def forward(self, x: Tensor) -> Tensor:
        for piece in self.children():
            x = piece(x)
        return x


def build_model(
    name: str,
    *,
    classes: int,
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    input_shape: Sequence[int] | None = None,
    width: int | None = None,
    tokens: bool = False,
    **options: object,
) -> nn.Module:
    """Build a registered model.

    Args:
        name: one of `MODELS.names()`, or a function of the user's own, `path/to/file.py:function`.
        classes: number of logits, [B, classes].
        channels, image_size: the input is [B, channels, image_size[0], image_size[1]], in pixels.
        input_shape: of a sample, instead of these two: [features] of a table, [channels, steps] of series. A function
            of the user's own is then given this.
        width: units or channels of the first layer; None takes the model's usual width.
        tokens: whether the input is a window of a text, [T], and `classes` the size of its vocabulary.
        options: the model's own options, listed in its builder's signature.

    Raises:
        InputError: the name or an option is unknown, or the model cannot take these sizes.
    """
    check_range("classes", classes, FROM_ONE)
    shape: tuple[int, ...]
    if input_shape is None:
        check_range("channels", channels, FROM_ONE)
        shape = (channels or 0, *check_image_size(image_size))
        given: dict[str, Any] = {"classes": classes, "channels": channels, "image_size": shape[1:]}
    else:
        for size in input_shape:
            check_range("input_shape", size, FROM_ONE)
        shape = tuple(input_shape)
        given = {"classes": classes, "input_shape": shape}
    if is_reference(name):
        given |= options if width is None else {"width": width, **options}
        return build_from_file(name, **given)
    if name.endswith(".py"):
        raise InputError(f"{name} is a file: name the function in it that builds the model, such as {name}:net.")
    builder, reads = MODELS.get(name), RANKS.get(name, (IMAGE,))
    rank = TEXT if tokens else len(shape)
    if rank not in reads:
        given_here = _SAMPLES[TEXT] if tokens else f"samples of the shape {list(shape)}"
        raise InputError(
            f"{name} reads {' or '.join(_SAMPLES[each] for each in reads)}, not {given_here}: --model mlp reads all "
            "but texts, conv1d series and images, decoder texts, the others images."
        )
    known = _options(builder)
    for option in options:
        if option not in known:
            raise unknown(f"option of model {name!r}", option, known or ["none"])
    arguments = dict(options)
    if width is not None:
        check_range("width", width, WIDTH)
        arguments["width"] = width
    return builder(classes=classes, input_shape=shape, **arguments)


def _options(builder: Callable[..., nn.Module]) -> list[str]:
    """The options a user may give: the builder's parameters, less the common ones and those `partial` has filled."""
    filled = {"classes", "input_shape", "width", *getattr(builder, "keywords", {})}
    return [name for name in inspect.signature(builder).parameters if name not in filled]


def check_image_size(image_size: object) -> tuple[int, int]:
    """The two sides in pixels.

    Raises:
        InputError: there are not two whole numbers of at least 1.
    """
    if not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
        raise InputError(f"image_size must be a pair (height, width) in pixels, not {image_size!r}.")
    for side, pixels in zip(("height", "width"), image_size, strict=True):
        check_range(f"image {side}", pixels, FROM_ONE)
    return image_size[0], image_size[1]


def check_smallest(name: str, input_shape: Shape, smallest: int, advice: str) -> None:
    """Refuse images that a model's down-sampling would shrink to nothing."""
    if min(input_shape[1:]) < smallest:
        raise InputError(
            f"{name} needs images of at least {smallest}x{smallest} pixels, "
            f"not {input_shape[1]}x{input_shape[2]}: {advice}"
        )


def check_choice(name: str, given: object, known: Iterable[str]) -> None:
    """Refuse a value outside a short list."""
    known = list(known)
    if given not in known:
        raise unknown(name, given, known)


def input_shape(model: nn.Module) -> tuple[int, ...] | None:
    """The shape of one sample, where the model says it; a user's attribute of that name may be something else."""
    shape: object = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape):
        return shape
    return None


def check_input(model: nn.Module, x: object) -> None:
    """Refuse a batch whose shape the model does not take. Models without `input_shape` accept everything here."""
    expected = input_shape(model)
    if expected is None:
        return
    wanted = "[B, " + ", ".join(str(n) for n in expected) + "]"
    if not isinstance(x, Tensor):
        raise InputError(f"the model takes a tensor {wanted}, not {type(x).__name__}.")
    if tuple(x.shape[1:]) != expected or x.dim() != len(expected) + 1:
        raise InputError(
            f"the input has shape {list(x.shape)}, the model takes {wanted}. "
            "Reshape the data, or build the model with these channels and this image_size."
        )
    if len(expected) == 3 and not x.is_floating_point():
        raise InputError(f"the input is {x.dtype}, the model takes floating point: convert and normalise the images.")
