"""What is asked for, and what the first process decides from it before training: the same for all processes."""

import hashlib
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import blocklocal
from blocklocal._common.errors import InputError
from blocklocal._common.limits import available_bytes
from blocklocal.data.text_set import TextSet
from blocklocal.models.file import file_of, is_reference
from blocklocal.network.network import BlockLocal
from blocklocal.parallel.broadcast import broadcast
from blocklocal.parallel.launch import Launch
from blocklocal.parallel.placement import Placement, place, step_seconds
from blocklocal.parallel.processes import Processes
from blocklocal.parallel.stage import check_placement, check_rule, passing_back
from blocklocal.parallel.streamed_stage import check_spread
from blocklocal.runs.build import RunContext, build_on_cpu, build_streamed, check_memory_for
from blocklocal.runs.checkpoints import CHECKPOINTS, checkpoint_to_resume
from blocklocal.runs.config import Config, load_config
from blocklocal.runs.facts import AnySet, DatasetInfo
from blocklocal.runs.lock import held
from blocklocal.runs.machine import prepare_for_device
from blocklocal.runs.origin import adds_epochs, is_finished
from blocklocal.runs.planning import bytes_in, plan_run
from blocklocal.runs.run import add_epochs, check_free, check_same, create_run
from blocklocal.runs.saved import load_cuts
from blocklocal.runs.sets import load_data, training_batches
from blocklocal.runs.usual import suited
from blocklocal.splitting.copying import copy_module
from blocklocal.streaming.place import check_new_store, store_folder
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.shares import check_disk_of, check_memory_of, share_lines, shares
from blocklocal.streaming.streamed import Streamed
from blocklocal.training.checkpoint_draft import KEEP
from blocklocal.training.checkpoint_folder import clear_leftovers

STORE = "store"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class RunRequest:
    """What the user has asked for."""

    config: Config
    launch: Launch
    output: Path
    resume: bool = False
    checkpoint: str | None = None
    quiet: bool = False
    accept_changes: bool = False
    streaming: Streaming = field(default_factory=Streaming)
    epochs: int | None = None  # of a run that goes on: train it on to so many


@dataclass(frozen=True)
class Decided:
    """What the first process has decided: the same for all."""

    facts: DatasetInfo
    name: str
    skipped: int
    starts: list[int] | None
    placement: Placement
    checkpoint: str | None
    changes: list[str]


@dataclass(frozen=True)
class Decision(Decided):
    """What is decided, with the labels of every split, which all processes need; of a text each reads its own."""

    labels: dict[str, Tensor]


def broadcast_decision(processes: Processes, decision: Decision | None) -> Decision:
    """The first process's decision, in every process."""
    mine = None
    if decision is not None:
        decided = Decided(**{field.name: getattr(decision, field.name) for field in fields(Decided)})
        mine = asdict(decided), decision.labels
    decided, labels = broadcast(processes, Decided, mine)
    return Decision(**vars(decided), labels=labels)


def run_fingerprint(request: RunRequest) -> dict[str, Any]:
    """What must be the same in all processes; the sources stand for the version."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(blocklocal.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    model = request.config.model.model
    if is_reference(model) and file_of(model).is_file():
        digest.update(file_of(model).read_bytes())
    launch = asdict(replace(request.launch, processes=1)) | asdict(request.streaming)
    place = {"output": str(request.output), "resume": request.resume, "checkpoint": request.checkpoint}
    versions = {"sources of blocklocal and of the model": digest.hexdigest(), "torch": torch.__version__}
    return {**request.config.flat(), **launch, **place, **versions}


def decide(
    processes: Processes, request: RunRequest, device: torch.device, lock: ExitStack
) -> tuple[Decision, AnySet, BlockLocal | Streamed]:
    """The decision, and the data and network it was made with.

    Args:
        lock: gets the run's lock.

    Raises:
        InputError: the folder holds a run with other settings, or there is nothing to resume.
    """
    config, folder = request.config, request.output
    resume, checkpoint = _where_it_begins(processes, request, lock)
    if config.data.weight:
        raise InputError("rows are weighed in one process: leave out --weight, or --processes.")
    if config.data.mix:
        raise InputError("images are mixed in one process: leave out --mix, or --processes.")
    data = load_data(config, folder if resume else None)
    facts = DatasetInfo.of(data, variance=config.model.variance).weighted(config, data)
    config = suited(config, facts)
    request = replace(request, config=config)
    starts = load_cuts(folder) if resume else None
    if not request.streaming.wanted:
        check_memory_for(config, facts, config.inputs(config.data.batch_size // processes.replicas), device)
        network: BlockLocal | Streamed = build_on_cpu(config, facts, starts)
    else:
        network = build_streamed(config, facts, device, starts, request.streaming.looked_at, folder)
    check_rule(network.rule, network.learning, late=False)
    placement = _place(network, processes, request, facts, device)
    # All that a user may have got wrong is found before there is a folder, which would be in the way of the next try.
    # A measured placement differs from try to try; what is refused must not: then every possible link counts.
    links = placement.sizes if request.launch.placement or processes.stages == 1 else (1,) * network.count
    lines: list[str] = []
    if isinstance(network, Streamed):
        check_spread(network.network.learners, links, processes.replicas)
        lines = _room(processes, request, facts, placement, device, samples=len(data.train), starts=starts)
    check_rule(network.rule, network.learning, late=any(passing_back(network.learners, links)))
    batches = training_batches(config, data, torch.device("cpu"), (0, processes.replicas))
    session = RunContext(
        config, data, facts, network, batches, device, torch.get_num_threads(), placement.sizes, processes.replicas
    )
    changes: list[str] = []
    if resume:
        changes = check_same(session, folder, accept_changes=request.accept_changes)
        add_epochs(folder, config, request.epochs)
        clear_leftovers(folder / CHECKPOINTS)
    else:
        create_run(folder, session)
        lock.enter_context(held(folder))
    decision = Decision(
        facts,
        data.name,
        data.skipped,
        None if config.model.at else network.split.starts,
        placement,
        checkpoint.name if checkpoint else None,
        changes,
        {} if isinstance(data, TextSet) else {name: getattr(data, name).labels for name in SPLITS},
    )
    if not request.quiet:
        print(*data.account, placement.summary(), *lines, sep="\n", flush=True)
    return decision, data, network


def _where_it_begins(processes: Processes, request: RunRequest, lock: ExitStack) -> tuple[bool, Path | None]:
    """Whether there is a run to go on with, and its checkpoint; None for its beginning."""
    folder = request.output
    # Launched again after a failure (torchrun --max-restarts), the same command goes on with what is there.
    again = processes.address.attempt > 0 and (folder / "config.json").exists()
    if again and not request.resume and request.config.differences(load_config(folder)):
        raise InputError(f"{folder} holds a run with other settings: choose another --output.")
    if not request.resume and not again:
        check_free(folder)
        check_new_store(request.streaming.store)
        return False, None
    lock.enter_context(held(folder))
    if not adds_epochs(folder, request.epochs) and is_finished(folder):
        raise InputError(f"the run {folder} is finished: there is nothing to resume.")
    # Where a run goes on by itself, from the newest one.
    return True, checkpoint_to_resume(folder, None if again else request.checkpoint)


def _room(
    processes: Processes,
    request: RunRequest,
    facts: DatasetInfo,
    placement: Placement,
    device: torch.device,
    *,
    samples: int,
    starts: list[int] | None,
) -> list[str]:
    """Lines that say what each process of a streamed run needs.

    Raises:
        InputError: there is no room for those of this machine; on CUDA every process is looked at as if it had a device
            like this one's, with those of this machine dealt round.
    """
    planned = plan_run(request.config, facts, request.streaming, device, samples=samples, starts=starts)
    each, here = shares(planned.plan, placement.sizes), max(1, processes.address.local_size)
    if device.type == "cuda":
        beside, free = torch.cuda.device_count(), torch.cuda.mem_get_info(device)[0]
    else:
        beside, free = 1, available_bytes()
    for first in range(min(beside, here)):
        check_memory_of(each[:here][first::beside], free)
    store = store_folder(request.streaming.store) or request.output / STORE
    checkpoints = request.output / CHECKPOINTS
    copies = max(0, (KEEP + 1) * planned.plan.rests - bytes_in(checkpoints))
    check_disk_of(each[:here], copies, checkpoints, store)
    return share_lines(each)


def own_store(request: RunRequest, processes: Processes) -> Path:
    """Where the blocks of this process rest while others are in memory."""
    store = store_folder(request.streaming.store) or request.output / STORE
    return store / f"process-{processes.address.rank}"


def _place(
    network: BlockLocal | Streamed, processes: Processes, request: RunRequest, facts: DatasetInfo, device: torch.device
) -> Placement:
    """As the user says, or balanced by the measured time of the blocks' steps."""
    config, given = request.config, request.launch.placement
    if given or processes.stages > network.count:
        check_placement(given, network.count, processes.stages)
    if isinstance(network, Streamed):  # never whole, so it is not measured: a block's weights stand for its time
        sizes = [float(sum(p.numel() for p in learner.parameters())) for learner in network.network.learners]
        return Placement(given, tuple(sizes)) if given else place(sizes, processes.stages)
    size = config.inputs(max(2, config.data.batch_size // processes.replicas))
    x, y = _made_up(facts, size, device)
    if config.machine.channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    trial = copy_module(network)
    prepare_for_device(trial, config, device)
    seconds = step_seconds(trial, x, y)
    return Placement(given, tuple(seconds)) if given else place(seconds, processes.stages)


def _made_up(facts: DatasetInfo, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch (x, y) such as the data have: no step takes longer or shorter for its values."""
    outputs = facts.outputs
    if facts.text is not None:
        x = torch.randint(outputs, (size, facts.width), device=device)
        return x, x.roll(-1, 1)
    x = torch.randn(size, *facts.shape, device=device)
    if facts.features is not None:
        x[:, facts.width - len(facts.features.sizes) :] = 0  # a code that there always is
    if facts.predicts_pixels:
        return x, torch.randint(outputs, (size, facts.height, facts.width), device=device)
    if facts.predicts_labels:
        return x, torch.randint(2, (size, outputs), device=device)
    if facts.predicts_values:
        return x, torch.randn(size, len(facts.classes), device=device)
    return x, torch.randint(outputs, (size,), device=device)
