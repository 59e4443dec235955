"""What a run was started with, kept in `origin.json`, so that it goes on exactly or not at all.

The weights of a resumed run are those of an undisturbed one, bit for bit, only where the same settings, pictures,
labels, threads and versions of the libraries meet. What differs is named and refused, unless the user accepts it.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct

import blocklocal
from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there, write_text
from blocklocal.models.file import is_reference
from blocklocal.runs.code import Code, own_model
from blocklocal.runs.config import Config, load_config
from blocklocal.runs.facts import AnySet
from blocklocal.runs.saved import SUMMARY, read_summary
from blocklocal.schemas import Setting, Text, Whole, check, read_json
from blocklocal.schemas.run import check_run_folder

log = logging.getLogger("blocklocal")

ORIGIN = "origin.json"
FREE = ("tensorboard", "checkpoint_every", "images_in", "stream", "device", "keep", "loggers")
"""Settings on which no weight depends; the device counts by itself."""
WHAT = "what a run was started with, as training writes it"


class _Settings(Struct):
    """Settings that are read one by one."""

    epochs: Annotated[int, Meta(ge=1, le=10**9)]
    threads: Whole | None


@dataclass(frozen=True)
class Origin:
    """What a run was started with.

    Attributes:
        settings: all of them, by name.
        data: split → fingerprint of its pictures and labels.
        folder: where the command was given, from which a relative --data is read.
        earlier: the last epochs of schedules that have come to their end (`--resume RUN --epochs MORE` begins another).
    """

    settings: dict[str, Setting]
    data: dict[str, Text]
    threads: Whole
    device: Text
    replicas: Whole
    versions: dict[str, Text]
    folder: Text
    code: Code | None = None
    earlier: list[Whole] = field(default_factory=list)

    @classmethod
    def now(
        cls,
        settings: Config,
        data: AnySet,
        device: torch.device,
        replicas: int = 1,
        code: Code | None = None,
    ) -> "Origin":
        """The origin of a run that starts here and now."""
        return cls(
            settings=_plain(settings),
            data=data.fingerprint(),
            threads=torch.get_num_threads(),
            device=device.type,
            replicas=replicas,
            versions={
                "blocklocal": blocklocal.__version__,
                "torch": torch.__version__,
                "CPU instructions": torch.backends.cpu.get_cpu_capability(),
            },
            folder=str(Path.cwd()),
            code=code,
        )

    @property
    def cycle(self) -> int:
        """The epoch, counted from 0, in which the present schedule begins."""
        return self.earlier[-1] if self.earlier else 0

    def save(self, folder: Path) -> None:
        write_text(folder / ORIGIN, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_origin(folder: Path) -> Origin | None:
    """None for a run of a version that did not keep it."""
    path = folder / ORIGIN
    if not is_there(path):
        return None
    origin = read_json(path, Origin, what=WHAT)
    check(origin.settings, _Settings, where=f"{path}: settings", what=WHAT)
    return origin


def load_settings(folder: Path) -> Config:
    """The settings of a run, as it was started or last extended."""
    config, origin = load_config(folder), read_origin(folder)
    if origin is not None and config.optimisation.epochs == origin.cycle:  # stopped while it was being extended
        return config.edit(epochs=origin.settings["epochs"])
    return config


def open_settings(folder: Path, *, trust: bool = False) -> Config:
    """The settings of a run as it goes on here.

    It has its own number of threads, its data where they lie from here, and its own copy of a user's model.

    Raises:
        InputError: there is no run, or the user must say first that the model's code may run (`trust`).
    """
    check_run_folder(folder)
    config, origin = load_settings(folder), read_origin(folder)
    model = own_model(folder, config.model.model, origin.code if origin else None, trust=trust)
    if origin is None:
        return config.edit(model=model)
    edited = config.machine.threads != origin.settings["threads"]
    threads = config.machine.threads if edited else origin.threads
    model = _model_found(model, Path(origin.folder))
    return config.edit(model=model, threads=threads, data=_found(config.data.data, Path(origin.folder)))


def open_config(path: Path, *, trust: bool = False) -> Config:
    """The settings in a config.json (or a run folder) to start a new run from.

    Raises:
        InputError: they name a model's code that the user has not said may run (`trust`).
    """
    folder = path if path.is_dir() else path.parent
    config = load_config(path)
    if not is_reference(config.model.model):
        return config
    return config.edit(model=own_model(folder, config.model.model, code_of(folder), trust=trust))


def _found(data: str, folder: Path) -> str:
    """A relative path is meant from where the run was started."""
    there = folder / Path(data).expanduser()
    return str(there) if data != "digits" and there.is_dir() else data


def _model_found(model: str, folder: Path) -> str:
    """A relative folder in hf:FOLDER is meant from where the run was started."""
    library, _, name = model.partition(":")
    return f"hf:{folder / name}" if library == "hf" and (folder / name).is_dir() else model


def code_of(folder: Path) -> Code | None:
    """The code of a user's own model that a run was trained with."""
    origin = read_origin(folder)
    return None if origin is None else origin.code


def cycle_of(folder: Path) -> int:
    """The epoch, counted from 0, in which a run's present schedule begins."""
    origin = read_origin(folder)
    return 0 if origin is None else origin.cycle


def check_origin(
    folder: Path, data: AnySet, device: torch.device, replicas: int = 1, *, accept_changes: bool = False
) -> list[str]:
    """What is different from when the run was started, in words, once the user has accepted it.

    What was accepted is not asked again.

    Raises:
        InputError: the user has not accepted a difference; the message names it.
    """
    then = read_origin(folder)
    if then is None:
        log.warning("%s is of an older version: whether its data and settings are the same cannot be told", folder)
        return []
    now = Origin.now(load_settings(folder), data, device, replicas, then.code)
    now = dataclasses.replace(now, folder=then.folder, earlier=then.earlier)
    found = differences(then, now)
    if found and not accept_changes:
        raise InputError(
            f"{folder} would go on otherwise than it was started: {'; '.join(found)}. Put it back as it was, or give "
            "--accept-changes (the weights are then not those of an undisturbed run)."
        )
    if found:
        now.save(folder)
        log.warning("%s goes on otherwise than it was started: %s", folder, "; ".join(found))
    return found


def edited_settings(folder: Path) -> list[str]:
    """Lines like "temperature: 1.0 then, 5.0 now", for settings changed since the run was started or extended."""
    origin = read_origin(folder)
    if origin is None:
        return []
    return _said(_settings(origin.settings, _plain(load_settings(folder))))


def _plain(config: Config) -> dict[str, Any]:
    """The settings as they are read back: a tuple is a list."""
    return json.loads(json.dumps(config.flat()))


def _settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name → (then, now); a setting that an older version did not have was what it usually is."""
    usual = _plain(Config())
    names = [name for name in dict.fromkeys([*then, *now]) if name not in FREE]
    return {name: (then.get(name, usual.get(name)), now.get(name)) for name in names}


def _said(pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{name}: {a} then, {b} now" for name, (a, b) in pairs.items() if a != b]


def differences(then: Origin, now: Origin) -> list[str]:
    """Lines like "lr: 0.1 then, 0.2 now", for everything on which the weights depend."""
    pairs = _settings(then.settings, now.settings)
    for name in dict.fromkeys([*then.versions, *now.versions]):
        pairs[name] = then.versions.get(name), now.versions.get(name)
    if pairs["threads"][0] == pairs["threads"][1]:
        pairs["threads"] = then.threads, now.threads
    pairs |= {"device": (then.device, now.device), "replicas": (then.replicas, now.replicas)}
    splits = [split for split in now.data if then.data.get(split) != now.data[split]]
    return [*_said(pairs), *(f"pictures or labels of the {split} split have changed" for split in splits)]


def adds_epochs(folder: Path, epochs: int | None) -> bool:
    """Whether a finished run is to be trained on to `epochs` epochs; False where it was extended to as many before.

    Nothing is written (see `extend`).

    Raises:
        InputError: the run is not finished, or the epochs are too few.
    """
    if epochs is None:
        return False
    config, origin = load_settings(folder), read_origin(folder)
    done, finished = config.optimisation.epochs, is_finished(folder)
    if epochs == done and not finished and origin is not None and origin.earlier:
        return False
    if origin is None:
        raise InputError(f"{folder} is of an older version and cannot be trained longer: train anew.")
    if epochs <= done:
        raise InputError(f"{folder} has {done} epochs: --epochs {epochs} adds none. Give more than {done}.")
    if not finished:
        raise InputError(
            f"{folder} is not finished, and its schedule ends with epoch {done}: finish it first "
            f"(blocklocal train --resume {folder}), then add epochs."
        )
    config.edit(epochs=epochs)  # says itself what is wrong with them
    return True


def extend(folder: Path, epochs: int) -> None:
    """Let a finished run train on to `epochs` epochs, under a schedule that begins anew for those that are added.

    Its summary is kept as `summary-epoch-N.json`. Everything else must have been checked before.
    """
    origin, done = read_origin(folder), load_settings(folder).optimisation.epochs
    assert origin is not None
    write_text(folder / f"summary-epoch-{done}.json", (folder / SUMMARY).read_text(encoding="utf-8"))
    longer = {**origin.settings, "epochs": epochs}
    dataclasses.replace(origin, settings=longer, earlier=[*origin.earlier, done]).save(folder)
    complete_extension(folder)


def complete_extension(folder: Path) -> None:
    """Bring config.json and the summary after what `origin.json` says, also where a kill came between.

    A summary that goes is that of the schedule before, which was kept under another name.
    """
    config = load_settings(folder)
    if config != load_config(folder):
        config.save(folder / "config.json")
    if is_there(folder / SUMMARY) and read_summary(folder)["epochs"] == cycle_of(folder):
        (folder / SUMMARY).unlink()


def is_finished(folder: Path) -> bool:
    """Whether there is a summary, of all epochs that were asked for."""
    if not is_there(folder / SUMMARY):
        return False
    return read_summary(folder)["epochs"] >= load_settings(folder).optimisation.epochs
