"""What a network must know of its data."""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias

import torch
from msgspec import Meta
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import MOST_CLASSES
from blocklocal.block.gaussian_values import GaussianValues
from blocklocal.block.tokens import Tokens
from blocklocal.block.values import Values
from blocklocal.data import Images, ImageSet
from blocklocal.data.answers import Answers
from blocklocal.data.features import Features
from blocklocal.data.images import as_targets
from blocklocal.data.samples import Samples, SampleSet
from blocklocal.data.text_set import TextPart, TextSet
from blocklocal.runs.class_weights import class_weights_of
from blocklocal.runs.config import Config
from blocklocal.schemas import Number, Text

AnySet: TypeAlias = ImageSet | SampleSet | TextSet
AnyPart: TypeAlias = Images | Samples | TextPart
Side = Annotated[int, Meta(ge=1, le=100_000)]
"""Pixels; the bounds in `DatasetInfo` are for what is read from a file (`runs.saved`)."""


@dataclass(frozen=True)
class TextFacts:
    """What a network must know of a text: how many tokens there are, and how many bytes one stands for in the mean."""

    vocabulary: Annotated[int, Meta(ge=1, le=2**20)]
    bytes_per_token: Annotated[float, Meta(gt=0)] = field(compare=False)  # it changes with the text


@dataclass(frozen=True)
class DatasetInfo:
    """What a network must know of its data set; saved with the run, so that `predict` needs no data set."""

    classes: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MOST_CLASSES)]
    channels: Annotated[int, Meta(ge=1, le=1_000)]
    height: Side
    width: Annotated[int, Meta(ge=1, le=2**26)]
    mean: Annotated[tuple[Number, ...], Meta(max_length=1_000)]
    std: Annotated[tuple[Number, ...], Meta(max_length=1_000)]
    kind: Literal["images", "table", "series", "text"] = "images"
    """A row of a table has `width` numbers, a series `channels` and `width` steps, a window of text `width` tokens."""
    answers: Answers | None = None
    features: Features | None = None
    text: TextFacts | None = None
    class_weights: Annotated[tuple[Number, ...], Meta(max_length=MOST_CLASSES)] | None = field(
        default=None, compare=False
    )
    variance: bool = field(default=False, compare=False)
    """Whether the network predicts a variance of every value too."""

    @classmethod
    def of(cls, data: AnySet, *, variance: bool = False) -> "DatasetInfo":
        """What there is to know of a set.

        Args:
            variance: whether a variance of every value is asked for too.

        Raises:
            InputError: it is, and no values are asked for.
        """
        found = cls._of(data)
        if not variance:
            return found
        if not found.predicts_values:
            raise InputError(
                "--variance is for values, and the target holds none: leave it out (or: --target-is values)."
            )
        return replace(found, variance=True)

    @classmethod
    def _of(cls, data: AnySet) -> "DatasetInfo":
        if isinstance(data, TextSet):
            text = TextFacts(data.tokenizer.size, data.bytes_per_token)
            return cls(data.classes, 1, 1, data.length, (0.0,), (1.0,), "text", text=text)
        if isinstance(data, ImageSet):
            return cls(data.classes, data.channels, data.height, data.width, data.mean, data.std, answers=data.answers)
        if data.features is not None:
            width = data.shape[0]
            return cls(data.classes, 1, 1, width, (0.0,), (1.0,), "table", data.answers, data.features)
        channels, steps = data.shape
        return cls(data.classes, channels, 1, steps, data.mean, data.std, "series", data.answers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: [C, H, W], [features] or [C, T]."""
        sizes = {"table": (self.width,), "series": (self.channels, self.width), "text": (self.width,)}
        return sizes.get(self.kind, (self.channels, self.height, self.width))

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for a sample, or for each of its positions."""
        if self.text is not None:
            return self.text.vocabulary
        return (2 if self.variance else 1) * len(self.classes)

    def example(self, count: int, device: str | torch.device = "cpu") -> Tensor:
        """So many samples, of zeros: [B, …]."""
        return torch.zeros(count, *self.shape, dtype=torch.int64 if self.text else torch.float32, device=device)

    @property
    def predicts_values(self) -> bool:
        """Whether `classes` are the names of values."""
        return self.answers is not None and self.answers.kind == "values"

    @property
    def predicts_labels(self) -> bool:
        """Whether `classes` are the names of binary labels."""
        return self.answers is not None and self.answers.kind == "labels"

    @property
    def predicts_pixels(self) -> bool:
        """Whether every pixel has one of the classes."""
        return self.answers is not None and self.answers.kind == "pixels"

    def asked(self, vocabulary: int | None = None) -> dict[str, Any]:
        """What a network is asked for, as `BlockLocal` takes it.

        Args:
            vocabulary: tokens that the model of a text gives logits of, where these are more than the text has.
        """
        if self.text is not None:
            count = self.text.vocabulary if vocabulary is None else vocabulary
            return {"tokens": Tokens(count, bytes_per_token=self.text.bytes_per_token)}
        if self.predicts_values and self.answers is not None:
            kind = GaussianValues if self.variance else Values
            return {"values": kind(len(self.classes), mean=self.answers.mean, std=self.answers.std)}
        if self.predicts_labels:
            return {"labels": len(self.classes)}
        return {"classes": len(self.classes), "class_weights": self.class_weights}

    def weighted(self, config: Config, data: AnySet) -> "DatasetInfo":
        """The same with the weights of the classes, fitted on the training split.

        Raises:
            InputError: weights are asked for, and there are no classes.
        """
        if self.predicts_labels or self.predicts_values or isinstance(data, TextSet):
            if config.data.class_weights:
                raise InputError("class_weights are for classes, and the target holds none: leave them out.")
            return self
        weights = class_weights_of(config.data.class_weights, as_targets(data.train.labels), len(self.classes))
        return replace(self, class_weights=weights)

    def flat(self) -> dict[str, Any]:
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return known if self.kind != "images" else {name: value for name, value in known.items() if name != "kind"}
