"""The data of a configuration: the set, and its batches."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.adapters import tokenizer_of
from blocklocal.data import Batches, ImageSet, load_images
from blocklocal.data.answers import UNKNOWN
from blocklocal.data.arrays import is_arrays, load_arrays
from blocklocal.data.batches import per_channel
from blocklocal.data.documents import holds_text
from blocklocal.data.labelled import keep_labels, repeated
from blocklocal.data.samples import SampleBatches, Samples, SampleSet
from blocklocal.data.scan import holds_images
from blocklocal.data.table_reading import names_images
from blocklocal.data.table_set import load_table
from blocklocal.data.text_set import TextPart, TextSet, load_text_set
from blocklocal.data.tokenizer import Tokenizer
from blocklocal.data.windows import WindowBatches
from blocklocal.runs.config import Config
from blocklocal.runs.facts import AnyPart, AnySet, DatasetInfo
from blocklocal.runs.saved import TOKENIZER

AnyBatches: TypeAlias = Batches | SampleBatches | WindowBatches
EVALUATION_BATCH = 500
EVALUATION_TOKENS = 2**13  # of a batch
EVALUATION_PIXELS = 2**20  # of a batch, where each is asked for its class


def load_data(config: Config, run: Path | None = None) -> AnySet:
    """The set a configuration names, split: a text, images, a table, or arrays.

    Args:
        run: a run of this configuration. Its text is read with its own tokenizer, though the text may have changed and
            would give another one.

    Raises:
        InputError: the data cannot be used.
    """
    found, d = _load(config, run), config.data
    if d.labelled == 1 and not d.repeat_labelled:
        return found
    if isinstance(found, TextSet):
        name = "--labelled" if d.labelled < 1 else "--repeat-labelled"
        raise InputError(f"{name} is for samples with a class each, and a text has none: leave it out.")
    train: Any = found.train
    labels = keep_labels(train.labels, d.labelled, d.split_seed)
    known = int((labels != UNKNOWN).sum())
    told = [f"{known:,} of {len(labels):,} training samples keep their label"] if d.labelled < 1 else []
    train = replace(train, labels=labels)
    if d.repeat_labelled:
        seen = repeated(labels, d.repeat_labelled)
        times = int((labels[seen] != UNKNOWN).sum()) // known
        if times > 1:
            told.append(f"those with a label are seen {times} times in an epoch: {times * known / len(seen):.0%} of it")
        else:
            told.append(f"{known / len(labels):.0%} of the training samples have a label: none is repeated")
    return replace(found, train=train, account=(*found.account, *told))


def _load(config: Config, run: Path | None) -> AnySet:
    d = config.data
    parts: dict[str, Any] = {
        "train_size": d.train_size,
        "validation": d.validation_split,
        "test_size": d.test_size,
        "split_seed": d.split_seed,
    }
    if _is_text(config):
        if d.stream:
            raise InputError("--stream is for sets of images; a text is read more than once: leave it out.")
        given: dict[str, Any] = {
            **parts,
            "field": d.text,
            "vocabulary": d.vocabulary,
            "length": d.length,
            "skip_bad": d.skip_bad,
        }
        own = None if run is None or not (run / TOKENIZER).is_file() else Tokenizer.from_file(run / TOKENIZER)
        tokenizer = d.tokenizer or _tokenizer_of(config.model.model)
        return load_text_set(d.data, **given, tokenizer=own if own and tokenizer else tokenizer, known=own)
    if is_arrays(d.data):
        return load_arrays(d.data, labels=d.target[0] if d.target else "y", **parts)
    listed = names_images(Path(d.data).expanduser())
    if d.target and not listed:
        return load_table(d.data, d.target, target_is=d.target_is, categories=d.categories, weight=d.weight, **parts)
    if d.weight:
        raise InputError(f"--weight names a column of a table of rows, and {d.data} is none: leave it out.")
    return load_images(
        d.data,
        **parts,
        image_size=d.image_size,
        skip_bad=d.skip_bad,
        label=d.target,
        target_is=d.target_is,
        stream=d.stream,
        images_in=d.images_in,
    )


def _tokenizer_of(model: str) -> str | Tokenizer:
    """The tokenizer that belongs to a model of another library; "" where there is none."""
    found = tokenizer_of(model)
    return "" if found is None else Tokenizer.from_text(found, model)


def _is_text(config: Config) -> bool:
    """Whether the data are a text: said by --text, or by files that hold nothing else and no target."""
    if config.data.text:
        return True
    path = Path(config.data.data).expanduser()
    if config.data.target or (path.is_dir() and holds_images(path)):
        return False
    return holds_text(path)


def training_batches(config: Config, data: AnySet, device: torch.device, share: tuple[int, int] = (0, 1)) -> AnyBatches:
    """Shuffled batches of the training split.

    Raises:
        InputError: images are to be augmented that are none.
    """
    if not isinstance(data, ImageSet):
        for name in ("augment", "mix", "second_view"):
            if given := getattr(config.data, name):
                raise InputError(f"{name} is for images, and {data.name} holds none: leave {given!r} out.")
        if config.learning.two_views:
            raise InputError(f"consistency and barlow compare two views of an image, and {data.name} holds none.")
    if config.learning.two_views and not (config.data.augment or config.data.second_view):
        raise InputError(
            "consistency and barlow compare two views of an image, and without augmentation both are the same: give "
            "--augment or --second-view, such as crop:2,flip."
        )
    train: Any = data.train
    if config.data.repeat_labelled:
        train = train.subset(repeated(train.labels, config.data.repeat_labelled))
    of_all: dict[str, Any] = {"batch_size": config.data.batch_size, "shuffle": True, "seed": config.machine.seed}
    of_all |= {"device": device, "share": share}
    if isinstance(data, TextSet):
        return WindowBatches(data.train, **of_all)
    if isinstance(data, SampleSet):
        return SampleBatches(train, mean=data.mean, std=data.std, **of_all)
    return Batches(
        train,
        mean=data.mean,
        std=data.std,
        augment=config.data.augment,
        mix=config.data.mix,
        second=(config.data.second_view or config.data.augment) if config.learning.two_views else None,
        classes=len(data.classes),
        channels_last=config.machine.channels_last,
        **of_all,
    )


def evaluation_batches(config: Config, images: AnyPart, facts: DatasetInfo, device: torch.device) -> AnyBatches:
    """Unshuffled, unaugmented batches of a split."""
    if isinstance(images, TextPart):
        return WindowBatches(images, batch_size=max(1, EVALUATION_TOKENS // images.length), device=device)
    if isinstance(images, Samples):
        known = (facts.mean, facts.std) if facts.kind == "series" else ((), ())
        return SampleBatches(images, batch_size=EVALUATION_BATCH, mean=known[0], std=known[1], device=device)
    size = min(EVALUATION_BATCH, max(1, EVALUATION_PIXELS // (facts.height * facts.width)))
    return Batches(
        images,
        batch_size=size if facts.predicts_pixels else EVALUATION_BATCH,
        mean=facts.mean,
        std=facts.std,
        device=device,
        channels_last=config.machine.channels_last,
    )


def normalise(pixels: Tensor, facts: DatasetInfo) -> Tensor:
    """uint8 [B, C, H, W] → the float32 that the network takes, bit for bit as `Batches` makes it."""
    channels, device = pixels.shape[1], pixels.device
    mean, std = (per_channel(name, getattr(facts, name), channels, device) for name in ("mean", "std"))
    return (pixels.float() - mean) / std
