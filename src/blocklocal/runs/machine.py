"""Where and how a configuration is computed: device, threads, precision, compilation."""

import torch

from blocklocal._common.errors import InputError, unknown
from blocklocal.network.compiling import check_compiler, compile_learners
from blocklocal.network.neighbours import Neighbours
from blocklocal.runs.config import Config


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
