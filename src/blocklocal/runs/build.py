"""From a configuration to the things that train: device, data, batches, network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import seeded
from blocklocal.adapters import add_lora, build_named, build_named_text, is_named, vocabulary_of
from blocklocal.models import build_model
from blocklocal.network.network import BlockLocal
from blocklocal.rules import RULES
from blocklocal.runs.config import Config
from blocklocal.runs.facts import AnySet, DatasetInfo
from blocklocal.runs.fits import check_fits
from blocklocal.runs.machine import compile_for_training, find_device, prepare_for_device, set_threads
from blocklocal.runs.sets import AnyBatches, load_data, training_batches
from blocklocal.runs.usual import suited
from blocklocal.splitting import freeze, split
from blocklocal.streaming.place import RAM
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.streamed import Streamed
from blocklocal.streaming.suitable import check_rule
from blocklocal.training.checkpoint_draft import KEEP
from blocklocal.training.learner_state import check_savable

S = TypeVar("S", bound=Streamed)
MEASURE_BATCH = 32  # images for measuring the cost of pieces


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
    example = facts.example(MEASURE_BATCH)
    if starts is not None:
        cut = split(model, starts=starts, example=example)
    elif m.at:
        cut = split(model, at=m.at, example=example)
    else:
        cut = split(model, m.blocks, balance=m.balance, example=example)
    seed = config.machine.seed
    asked = facts.asked(vocabulary_of(model) if facts.text and is_named(m.model) else None)
    return BlockLocal(cut, **asked, learning=config.learning, example=example, seed=seed)


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
    options["classes"] = facts.outputs
    images: dict[str, Any] = {"channels": facts.channels, "image_size": (facts.height, facts.width)}
    if is_named(m.model):
        if facts.kind not in ("images", "text"):
            raise InputError(
                f"--model {m.model} is built for images, and the data are a {facts.kind}: give another one."
            )
        if m.width is not None:
            raise InputError(f"--width is for models of blocklocal; {m.model} has --model-options of its own.")
        model = (
            _named_for_text(config, facts, options)
            if facts.text
            else build_named(m.model, pretrained=m.pretrained, **images, **options)
        )
    elif m.pretrained:
        raise InputError(f"--pretrained is for hf:, timm: and torchvision: models, and --model is {m.model}.")
    else:
        if facts.features is not None and facts.features.sizes:
            options["categories"] = facts.features.sizes
        shape = images if facts.kind == "images" else {"input_shape": facts.shape}
        model = build_model(m.model, width=m.width, tokens=facts.text is not None, **shape, **options)
    if m.lora is not None:
        add_lora(model, m.lora)
    freeze(model, m.freeze)
    return model


def _named_for_text(config: Config, facts: DatasetInfo, options: dict[str, Any]) -> nn.Module:
    """A causal language model of transformers.

    Raises:
        InputError: the text has tokens that a trained one does not know.
    """
    name, size = config.model.model, options.pop("classes")
    trained = config.model.pretrained
    model = build_named_text(name, vocabulary=size, length=facts.width, pretrained=trained, **options)
    if vocabulary_of(model) < size:
        raise InputError(
            f"the tokenizer of the text has {size:,} tokens, and {name} knows {vocabulary_of(model):,}: give its own "
            "by --tokenizer, or leave --tokenizer out where its folder has one."
        )
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


def check_memory_for(config: Config, facts: DatasetInfo, batch: int = 0, device: torch.device | None = None) -> None:
    """Refuse a network that is too large for the free memory; with a `batch`, one that is too large to be trained."""
    example = facts.example(batch, "meta")
    counted = config.edit(balance="count")  # where it is cut changes little, and costs cannot be measured
    check_fits(config, lambda: plain_model(config, facts), lambda model: _cut(model, counted, facts), example, device)


def _option(text: object) -> object:
    """A model option as the command line gives it: a whole number, a fraction, true/false, or a word."""
    for kind in (int, float):
        try:
            return kind(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return {"true": True, "false": False}.get(str(text).lower(), text)


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
    facts = DatasetInfo.of(data, variance=config.model.variance).weighted(config, data)
    config = suited(config, facts)
    batches = training_batches(config, data, device)
    if streaming is not None and streaming.wanted:
        if config.machine.compile:
            raise InputError("blocks that come and go are not compiled: leave out --compile, or --visit and --memory.")
        streamed = build_streamed(config, facts, device, starts, streaming, checkpoints)
        return RunContext(config, data, facts, streamed, batches, device, threads)
    check_memory_for(config, facts, config.inputs(min(config.data.batch_size, len(data.train))), device)
    fits = device.type == "cpu"  # else it was the device's memory that was looked at
    network = build_network(config, facts, device, starts, fits=fits)
    compile_for_training(network, config, device)
    return RunContext(config, data, facts, network, batches, device, threads)
