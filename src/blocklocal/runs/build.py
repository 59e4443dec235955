"""From a configuration to the things that train: device, data, batches, network."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.ranges import MOST_CLASSES
from blocklocal._common.seeds import seeded
from blocklocal.adapters import build_named, is_named
from blocklocal.block.values import Values
from blocklocal.data import Batches, Images, ImageSet, load_images
from blocklocal.data.answers import Answers
from blocklocal.data.arrays import is_arrays, load_arrays
from blocklocal.data.batches import per_channel
from blocklocal.data.features import Features
from blocklocal.data.images import as_targets
from blocklocal.data.samples import SampleBatches, Samples, SampleSet
from blocklocal.data.table_reading import names_images
from blocklocal.data.table_set import load_table
from blocklocal.models import build_model
from blocklocal.network.compiling import check_compiler, compile_learners
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.rules import RULES
from blocklocal.runs.class_weights import class_weights_of
from blocklocal.runs.config import Config, Model, Optimisation
from blocklocal.runs.fits import check_fits
from blocklocal.schemas import Number, Text
from blocklocal.splitting import freeze, split
from blocklocal.streaming.place import RAM
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.streamed import Streamed
from blocklocal.streaming.suitable import check_rule
from blocklocal.training.checkpoint_draft import KEEP
from blocklocal.training.learner_state import check_savable

S = TypeVar("S", bound=Streamed)
AnySet: TypeAlias = ImageSet | SampleSet
AnyBatches: TypeAlias = Batches | SampleBatches
EVALUATION_BATCH = 500
EVALUATION_PIXELS = 2**20  # of a batch, where each is asked for its class
ROWS: dict[str, Any] = {"optimizer": "adamw", "lr": 3e-3}  # how rows of tables and series are trained
MEASURE_BATCH = 32  # images for measuring the cost of pieces
Side = Annotated[int, Meta(ge=1, le=100_000)]
"""Pixels; the bounds in `DatasetInfo` are for what is read from a file (`training.saved`)."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a network must know of its data set; saved with the run, so that `predict` needs no data set."""

    classes: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MOST_CLASSES)]
    channels: Annotated[int, Meta(ge=1, le=1_000)]
    height: Side
    width: Annotated[int, Meta(ge=1, le=2**26)]
    mean: Annotated[tuple[Number, ...], Meta(max_length=1_000)]
    std: Annotated[tuple[Number, ...], Meta(max_length=1_000)]
    kind: Literal["images", "table", "series"] = "images"
    """A row of a table has `width` numbers, a series `channels` and `width` steps."""
    answers: Answers | None = None
    features: Features | None = None
    class_weights: Annotated[tuple[Number, ...], Meta(max_length=MOST_CLASSES)] | None = field(
        default=None, compare=False
    )

    @classmethod
    def of(cls, data: AnySet) -> "DatasetInfo":
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
        sizes = {"table": (self.width,), "series": (self.channels, self.width)}
        return sizes.get(self.kind, (self.channels, self.height, self.width))

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

    def asked(self) -> dict[str, Any]:
        """What a network is asked for, as `BlockLocal` takes it."""
        if self.predicts_values and self.answers is not None:
            return {"values": Values(len(self.classes), mean=self.answers.mean, std=self.answers.std)}
        if self.predicts_labels:
            return {"labels": len(self.classes)}
        return {"classes": len(self.classes), "class_weights": self.class_weights}

    def weighted(self, config: Config, data: AnySet) -> "DatasetInfo":
        """The same with the weights of the classes, fitted on the training split.

        Raises:
            InputError: weights are asked for, and there are no classes.
        """
        if self.predicts_labels or self.predicts_values:
            if config.data.class_weights:
                raise InputError("class_weights are for classes, and the target holds none: leave them out.")
            return self
        weights = class_weights_of(config.data.class_weights, as_targets(data.train.labels), len(self.classes))
        return replace(self, class_weights=weights)

    def flat(self) -> dict[str, Any]:
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return known if self.kind != "images" else {name: value for name, value in known.items() if name != "kind"}


def load_data(config: Config) -> AnySet:
    """The set a configuration names, split: images, a table, or arrays."""
    d = config.data
    parts: dict[str, Any] = {
        "train_size": d.train_size,
        "validation": d.validation_split,
        "test_size": d.test_size,
        "split_seed": d.split_seed,
    }
    if is_arrays(d.data):
        return load_arrays(d.data, labels=d.target[0] if d.target else "y", **parts)
    listed = names_images(Path(d.data).expanduser())
    if d.target and not listed:
        return load_table(d.data, d.target, target_is=d.target_is, categories=d.categories, **parts)
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


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is cuda where there is one.

    Raises:
        InputError: the name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch finds no CUDA device here: use --device cpu or auto.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:0")) from error


def set_threads(threads: int | None) -> int:
    """Set CPU threads, or leave torch's own choice (all cores, or OMP_NUM_THREADS); return their number."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def build_network(
    config: Config, facts: DatasetInfo, device: torch.device, starts: Sequence[int] | None = None, *, fits: bool = False
) -> BlockLocal:
    """The network of a configuration, its weights drawn from the seed.

    Args:
        starts: of a cut that was measured before.
        fits: it is known to fit into the machine's memory.
    """
    network = build_on_cpu(config, facts, starts, fits=fits)
    prepare_for_device(network, config, device)
    return network


def build_on_cpu(
    config: Config, facts: DatasetInfo, starts: Sequence[int] | None = None, *, fits: bool = False
) -> BlockLocal:
    """As `build_network`, on the CPU and not yet in the layout and precision of training."""
    if not fits:
        check_memory_for(config, facts)
    with seeded("model", config.machine.seed):
        model = plain_model(config, facts)
    network = _cut(_prepared(config.model.model, model), config, facts, starts)
    check_savable(network.learners)
    return network


def build_streamed(
    config: Config,
    facts: DatasetInfo,
    device: torch.device,
    starts: Sequence[int] | None,
    streaming: Streaming,
    checkpoints: Path,
    make: Callable[..., S] = Streamed,
    keep: int = KEEP,
    trains: bool = True,
) -> S:
    """The network of a configuration, of which one block at a time is in memory.

    Args:
        starts: of a cut that was measured before.
        checkpoints: where blocks rest, unless `streaming` lets them rest in host memory.
        make: makes the network, as `Streamed` does.
        keep: complete chunks that stay in files.
        trains: whether it is trained, and not only looked at.

    Raises:
        InputError: the cut is to be measured, which needs the whole network; and as `Streamed`.
    """
    assert streaming.visit is not None
    if trains:  # before anything is built
        check_rule(RULES.get(config.learning.rule), config.learning.scope)

    network = make(
        lambda: cut_on_meta(config, facts, starts),
        visit=streaming.visit,
        store=RAM if streaming.store == RAM else checkpoints,
        cache=streaming.boundary_cache,
        most=streaming.blocks_in_memory,
        device=device,
        keep=keep,
        trains=trains,
    )
    check_savable(network.learners)
    prepare_for_device(network, config, device)
    return network


def cut_on_meta(config: Config, facts: DatasetInfo, starts: Sequence[int] | None = None) -> BlockLocal:
    """The network of a configuration where tensors have no content. To be called under `torch.device("meta")`.

    Raises:
        InputError: the cut is to be measured.
    """
    if starts is None and not config.model.at and config.model.balance != "count":
        raise InputError(
            f"--balance {config.model.balance} measures the whole network, which one block at a time never has: give "
            "--balance count, or --at with the names of the pieces where blocks start."
        )
    with seeded("model", config.machine.seed):
        model = plain_model(config, facts)
    return _cut(model, config, facts, starts)


def _cut(model: nn.Module, config: Config, facts: DatasetInfo, starts: Sequence[int] | None = None) -> BlockLocal:
    """The model in blocks, with all they need to learn."""
    m = config.model
    example = torch.zeros(MEASURE_BATCH, *facts.shape)
    if starts is not None:
        cut = split(model, starts=starts, example=example)
    elif m.at:
        cut = split(model, at=m.at, example=example)
    else:
        cut = split(model, m.blocks, balance=m.balance, example=example)
    seed = config.machine.seed
    return BlockLocal(cut, **facts.asked(), learning=config.learning, example=example, seed=seed)


def _prepared(name: str, model: nn.Module) -> nn.Module:
    """The model on the CPU. Raises InputError for weights without values, or of another precision than float32."""
    for key, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise InputError(f"{name} gives {key!r} without values (on the device meta): build it on the CPU.")
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InputError(
                f"{name} gives {key!r} as {tensor.dtype}, and images are float32: return model.float(). "
                "--precision bfloat16 computes in less without changing the weights."
            )
    model.cpu()  # the run itself brings it to its device
    return model


def plain_model(config: Config, facts: DatasetInfo) -> nn.Module:
    """The module that a configuration names, not cut yet."""
    m = config.model
    options: dict[str, Any] = {name: _option(value) for name, value in m.model_options.items()}
    _check_options(config, facts)
    options["classes"] = len(facts.classes)
    images: dict[str, Any] = {"channels": facts.channels, "image_size": (facts.height, facts.width)}
    if is_named(m.model):
        if facts.kind != "images":
            raise InputError(
                f"--model {m.model} is built for images, and the data are a {facts.kind}: give another one."
            )
        if m.width is not None:
            raise InputError(f"--width is for models of blocklocal; {m.model} has --model-options of its own.")
        model = build_named(m.model, pretrained=m.pretrained, **images, **options)
    elif m.pretrained:
        raise InputError(f"--pretrained is for hf:, timm: and torchvision: models, and --model is {m.model}.")
    else:
        if facts.features is not None and facts.features.sizes:
            options["categories"] = facts.features.sizes
        shape = images if facts.kind == "images" else {"input_shape": facts.shape}
        model = build_model(m.model, width=m.width, **shape, **options)
    freeze(model, m.freeze)
    return model


def _check_options(config: Config, facts: DatasetInfo) -> None:
    """Refuse among the model's options what a run gives by itself."""
    named, of_data = is_named(config.model.model), "it is that of the data"
    given = {"classes": of_data, **({"pretrained": "give --pretrained"} if named else {"width": "give --width"})}
    if facts.kind == "images":
        given = {**given, "channels": of_data, "image_size": "give --image-size"}
    else:
        given = {**given, "input_shape": of_data, "categories": of_data}
    twice = next((name for name in config.model.model_options if name in given), None)
    if twice is not None:
        raise InputError(f"--model-options {twice} is given by the run itself: leave it out; {given[twice]}.")


def suited(config: Config, facts: DatasetInfo) -> Config:
    """The settings with what is usual for such data, where they have the usual model or optimiser of images."""
    usual = "unet" if facts.predicts_pixels else {"table": "mlp", "series": "conv1d"}.get(facts.kind)
    if usual is None:
        return config
    o = config.optimisation
    if config.model.model == Model.model:
        config = config.edit(model=usual)
    return config.edit(**ROWS) if (o.optimizer, o.lr) == (Optimisation.optimizer, Optimisation.lr) else config


def check_memory_for(config: Config, facts: DatasetInfo, batch: int = 0, device: torch.device | None = None) -> None:
    """Refuse a network that is too large for the free memory; with a `batch`, one that is too large to be trained."""
    example = torch.Size((batch, *facts.shape))
    counted = config.edit(balance="count")  # where it is cut changes little, and costs cannot be measured
    check_fits(config, lambda: plain_model(config, facts), lambda model: _cut(model, counted, facts), example, device)


def prepare_for_device(network: Neighbours, config: Config, device: torch.device) -> None:
    """Bring a network, or a process's share of one, to its device, memory layout and precision."""
    network.to(device)
    if config.machine.channels_last:
        network.to(memory_format=torch.channels_last)  # pyrefly: ignore
    network.autocast(precision_of(config, device))


def compile_for_training(network: Neighbours, config: Config, device: torch.device) -> None:
    """Compile the blocks, or a process's share of them, where the settings ask for it.

    Raises:
        InputError: torch.compile does not work here, or not with the rule.
    """
    if config.machine.compile:
        check_compiler(device)
        compile_learners(network.learners, network.rule)


def precision_of(config: Config, device: torch.device) -> torch.dtype | None:
    """Of the blocks' operations; None: as the parameters are."""
    wanted = config.machine.precision
    if wanted == "float16":
        return torch.float16
    return torch.bfloat16 if wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda") else None


def _option(text: object) -> object:
    """A model option as the command line gives it: a whole number, a fraction, true/false, or a word."""
    for kind in (int, float):
        try:
            return kind(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return {"true": True, "false": False}.get(str(text).lower(), text)


def training_batches(config: Config, data: AnySet, device: torch.device, share: tuple[int, int] = (0, 1)) -> AnyBatches:
    """Shuffled batches of the training split.

    Raises:
        InputError: images are to be augmented that are none.
    """
    if isinstance(data, SampleSet):
        for name in ("augment", "mix"):
            if given := getattr(config.data, name):
                raise InputError(f"{name} is for images, and {data.name} holds none: leave {given!r} out.")
        return SampleBatches(
            data.train,
            batch_size=config.data.batch_size,
            mean=data.mean,
            std=data.std,
            shuffle=True,
            seed=config.machine.seed,
            device=device,
            share=share,
        )
    return Batches(
        data.train,
        batch_size=config.data.batch_size,
        mean=data.mean,
        std=data.std,
        shuffle=True,
        augment=config.data.augment,
        mix=config.data.mix,
        classes=len(data.classes),
        seed=config.machine.seed,
        device=device,
        channels_last=config.machine.channels_last,
        share=share,
    )


def evaluation_batches(
    config: Config, images: Images | Samples, facts: DatasetInfo, device: torch.device
) -> AnyBatches:
    """Unshuffled, unaugmented batches of a split."""
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


@dataclass(frozen=True)
class RunContext:
    """Everything of a run that is in memory."""

    config: Config
    data: AnySet
    facts: DatasetInfo
    network: BlockLocal | Streamed
    batches: AnyBatches
    device: torch.device
    threads: int
    placement: tuple[int, ...] = ()  # blocks per process, where there are several
    replicas: int = 1


def open_session(
    config: Config,
    data: AnySet | None = None,
    starts: Sequence[int] | None = None,
    streaming: Streaming | None = None,
    checkpoints: Path = Path(),
) -> RunContext:
    """Set threads and device, load the data (unless it is given), build batches and network.

    Args:
        starts: of a cut that was measured before.
        streaming: how blocks come into memory and go, where one at a time is in memory.
        checkpoints: the run's folder of them, where those blocks rest.
    """
    threads, device = set_threads(config.machine.threads), find_device(config.machine.device)
    data = data or load_data(config)
    facts = DatasetInfo.of(data).weighted(config, data)
    config = suited(config, facts)
    batches = training_batches(config, data, device)
    if streaming is not None and streaming.wanted:
        if config.machine.compile:
            raise InputError("blocks that come and go are not compiled: leave out --compile, or --visit and --memory.")
        streamed = build_streamed(config, facts, device, starts, streaming, checkpoints)
        return RunContext(config, data, facts, streamed, batches, device, threads)
    check_memory_for(config, facts, min(config.data.batch_size, len(data.train)), device)
    fits = device.type == "cpu"  # else it was the device's memory that was looked at
    network = build_network(config, facts, device, starts, fits=fits)
    compile_for_training(network, config, device)
    return RunContext(config, data, facts, network, batches, device, threads)
