"""What a batch asks for, where it is more than one tensor, and what every kind of target has in common.

Most batches have a plain tensor y. A `Target` stands in its place where samples have weights, or where y is made for
a loss of the user's own and the targets of the hidden blocks are read off it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from blocklocal._common.errors import InputError, shown
from blocklocal.block.weighting import spread_shape

MISSING = -100  # the field's usual value for "no target here" (ignore_index of torch's cross-entropy)


@dataclass(frozen=True)
class Target:
    """Targets of a batch with what belongs to them. It is moved, counted and cut as a tensor is.

    Attributes:
        y: as the loader gave it: a tensor, or a tuple or mapping of tensors. The user's own loss and metrics get it.
        weight: of every sample [B], or of every position, in the shape of the targets; None where all count the same.
        read: the targets of the hidden blocks, where they are not y itself.
    """

    y: Any
    weight: Tensor | None = None
    read: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """The tensor that the hidden blocks are asked for."""
        return self.y if self.read is None else self.read

    def map(self, do: Callable[[Tensor], Tensor]) -> "Target":
        y, weight, read = (pytree.tree_map_only(Tensor, do, part) for part in (self.y, self.weight, self.read))
        return Target(y, weight, read)

    def to(self, *args: Any, **kwargs: Any) -> "Target":
        return self.map(lambda t: t.to(*args, **kwargs))

    def cpu(self) -> "Target":
        return self.map(Tensor.cpu)

    def detach(self) -> "Target":
        return self.map(Tensor.detach)

    def __getitem__(self, part: slice) -> "Target":
        return self.map(lambda t: t[part])

    def __len__(self) -> int:
        return len(self.first)

    @property
    def first(self) -> Tensor:
        """The first of its tensors, which tells the batch size and the device."""
        return pytree.tree_leaves(self.y if self.read is None else self.read)[0]

    @property
    def shape(self) -> torch.Size:
        return self.first.shape

    @property
    def device(self) -> torch.device:
        return self.first.device

    @property
    def is_cuda(self) -> bool:
        return self.first.is_cuda


Asked = Tensor | Target
Wanted = Tensor | Target | Mapping[str, Tensor] | Sequence[Tensor]
"""What a loader may give as targets: several tensors where `targets=` reads them."""


def with_weight(y: Wanted, weight: Tensor | None) -> Asked:
    """Targets as a loader gives them, with the weights of samples or positions, where there are any."""
    if isinstance(y, Target):
        return y if weight is None else replace(y, weight=weight)
    return y if isinstance(y, Tensor) and weight is None else Target(y, weight)


def values_of(target: Asked) -> Tensor:
    """The tensor of targets."""
    return target.values if isinstance(target, Target) else target


def given_of(target: Asked) -> Any:
    """What the loader gave."""
    return target.y if isinstance(target, Target) else target


def weight_of(target: Asked) -> Tensor | None:
    """The weights of samples or positions, None without any."""
    return target.weight if isinstance(target, Target) else None


def check_weight(target: Asked) -> None:
    """Refuse weights that are not one number, 0 or more, per sample or per position."""
    weight, values = weight_of(target), values_of(target)
    if weight is None:
        return
    shape = spread_shape(values)
    if weight.shape not in (values.shape[:1], shape):
        raise InputError(
            f"weights of shape {list(weight.shape)} do not fit targets of shape {list(values.shape)}: give one per "
            f"sample, [{len(values)}]" + (f", or one per position, {list(shape)}." if len(shape) > 1 else ".")
        )
    if weight.is_complex() or not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise InputError("every weight of a sample must be a finite number, 0 or more.")


def check_shape(target: Tensor, expected: torch.Size) -> None:
    """Refuse targets that do not fit the logits; torch would broadcast some of them without an error."""
    if target.shape != expected:
        raise InputError(
            f"targets of shape {list(target.shape)} do not fit the network's output, which needs {list(expected)}: "
            "one class number per sample (per position for sequences), or one 0 or 1 per binary label."
        )


@dataclass(frozen=True)
class Targets(ABC):
    """What a network is asked for.

    Scores have their units last: [B, R], [B, T, R], or [B, H, W, R] where every pixel has a target.

    Attributes:
        read: takes y and gives the targets of the hidden blocks, where y is not them.
        hidden: whether the hidden blocks alone answer, because the output is for the user's own loss; the targets are
            then one per sample.
    """

    count: int

    read: Callable[[Any], Tensor] | None = field(default=None, kw_only=True)
    hidden: bool = field(default=False, kw_only=True)

    measures: ClassVar[tuple[str, ...]] = ("top1",)  # the names of `figures`; the first is the one that counts
    large: ClassVar[bool] = False  # whether there are so many rows that scores are measured at once and never kept

    @property
    @abstractmethod
    def rows(self) -> int:
        """The distinct messages that a twin can be asked for."""

    @abstractmethod
    def shape(self, output: torch.Size) -> torch.Size:
        """The shape of one sample's target, where the network gives this output for it."""

    @abstractmethod
    def check(self, target: Asked) -> None:
        """Refuse targets that cannot be right."""

    def prediction_shape(self, output: torch.Size) -> torch.Size:
        """The shape of what is predicted for these targets, [B, …]: the output's own, or one per sample."""
        return torch.Size((output[0], self.count)) if self.hidden else output

    @abstractmethod
    def misfit(self, output: torch.Size) -> str | None:
        """Why an output [B, …] cannot answer these targets; None where it can."""

    def asked(self, y: Any) -> Asked:
        """What a loader gave as targets, in the form that losses take.

        Raises:
            InputError: it is no tensor, and no function reads targets off it.
        """
        if isinstance(y, Target) and y.read is not None:
            return y
        given = given_of(y)
        if self.read is not None:
            read = self.read(given)
            if not isinstance(read, Tensor):
                raise InputError(f"targets= must give the targets of a batch as a tensor, not {shown(read)}.")
            return Target(given, weight_of(y), read)
        if not isinstance(given, Tensor):
            raise InputError(
                f"y is a {type(given).__name__} of tensors, and the hidden blocks need one tensor of targets: give "
                "targets=, a function of y that makes it."
            )
        return y

    def fit(self, target: Asked, expected: torch.Size) -> None:
        """Refuse targets of another shape than the output asks for, [B, …]."""
        check_shape(values_of(target), expected)

    @abstractmethod
    def loss(self, logits: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """The mean loss of row scores over the targets that are there; 0 where none is."""

    def output_loss(self, output: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """The loss of the last block."""
        return self.loss(output, target, smoothing)

    def likelihood(self, output: Tensor, target: Asked) -> Tensor:
        """The mean negative log-likelihood of the output, or what stands for it."""
        return self.output_loss(output, target)

    output_name = "cross-entropy"

    def weighs(self, target: Asked) -> bool:
        """Whether targets may count differently, or are shares of several rows."""
        return True

    @abstractmethod
    def weights(self, target: Asked) -> Tensor:
        """How much every target counts, [B] or [B, T]: 0 where it is missing, 1 where nothing is weighted."""

    def without_padding(self, target: Asked, mask: Tensor | None) -> Asked:
        """Targets of positions, with none where a position is not real; all others as they are.

        Args:
            mask: [B, T], true where a position is real; None where all are.
        """
        missing = None if mask is None else self.missing(values_of(target), ~mask)
        return target if missing is None else Target(given_of(target), weight_of(target), missing)

    def missing(self, y: Tensor, where: Tensor) -> Tensor | None:
        """The same without the targets of these positions, [B, T]; None where targets are not of these positions."""
        return None

    @abstractmethod
    def pick(self, table: Tensor, target: Asked) -> Tensor:
        """Each sample's own message, table [R, P, U, …] → [B, P, U, …]; 0 where missing."""

    @abstractmethod
    def one_hot(self, target: Asked) -> Tensor:
        """Targets as weights of the rows, [B, R] or [B, T, R]; zeros where missing."""

    def at(self, target: Asked, grid: torch.Size) -> Asked:
        """The targets of a block whose latents lie on this grid: () for flat ones, (T,) for sequences, or (H, W)."""
        return target

    def as_logits(self, scores: Tensor) -> Tensor:
        """A block's scores as natural parameters of what it predicts, whose mean over blocks is one too. Once only."""
        return scores

    def resized(self, scores: Tensor, like: Tensor) -> Tensor:
        """A block's scores in the resolution of the output's."""
        return scores

    def measure(self, scores: Tensor, target: Asked) -> Tensor:
        """Sums of which `figures` are made, of a block's scores."""
        return self.sums(self.as_logits(scores), target)

    @abstractmethod
    def sums(self, logits: Tensor, target: Asked) -> Tensor:
        """Sums of which `figures` are made, added over batches; the second is the number of targets.

        They are a tensor, so that nothing waits for the device.
        """

    def correct(self, scores: Tensor, target: Asked) -> tuple[Tensor, Tensor]:
        """(number right, number of targets)."""
        right, count = self.measure(scores, target)[:2]
        return right, count

    @abstractmethod
    def figures(self, sums: Tensor) -> dict[str, float]:
        """How good an answer is, by the name of the measure."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """What logits say, in the layout of the network's output."""

    @abstractmethod
    def label(self, probabilities: Tensor) -> Tensor: ...

    @abstractmethod
    def confidence(self, probabilities: Tensor) -> Tensor: ...

    @abstractmethod
    def row_errors(self, errors: Tensor) -> Tensor:
        """∂L/∂output → the error of every target row."""

    def reading(self, read: Callable[[Any], Tensor] | None) -> "Targets":
        """The same, read off y by a function."""
        return replace(self, read=read)
