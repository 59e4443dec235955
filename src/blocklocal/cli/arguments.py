"""Command-line arguments as dataclasses; tyro turns them into flags and help."""

import argparse
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

import tyro

from blocklocal._common.choices import values
from blocklocal._common.errors import InputError
from blocklocal._common.ranges import SEED, check_settings
from blocklocal._common.screen import COLOURS, Screen, allowing, printable
from blocklocal.cli.flags import flags_of, in_flags
from blocklocal.parallel.launch import Launch
from blocklocal.runs.config import Config
from blocklocal.runs.recipes import get_recipe
from blocklocal.streaming.settings import Streaming

T = TypeVar("T")
Settings: TypeAlias = Annotated[Config, tyro.conf.arg(name="")]
"""All groups of settings; without a name of its own, so that the help is of "model options", not "settings.model"."""
RENAMED = {"--queue": "--max-in-flight", "--stall": "--message-timeout", "--join": "--rendezvous-timeout"}
"""Older flags of `train`, which go on working: name then → name now."""


@dataclass(frozen=True)
class TrainArguments:
    """Train one network and write a run folder with a report."""

    settings: Settings = field(default_factory=Config)
    launch: Launch = field(default_factory=Launch)
    streaming: Streaming = field(default_factory=Streaming)
    recipe: str | None = None
    """Start from a named recipe (see `blocklocal recipes`); other flags change it."""
    config: Path | None = None
    """Start from a saved config.json (or a run folder); other flags change it."""
    output: Path | None = None
    """Run folder; it must not exist. Default: below runs/."""
    resume: Path | None = None
    """Go on with a stopped run; takes no settings, they are the run's own (but for --epochs: see there)."""
    checkpoint: str | None = None
    """With --resume: this checkpoint instead of the newest."""
    accept_changes: bool = False
    """With --resume: go on although data, settings or versions are not those that the run was started with."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class CompareArguments:
    """Train the same settings under several rules and seeds; one table, one report."""

    settings: Settings = field(default_factory=Config)
    recipe: str | None = None
    """Start from a named recipe (see `blocklocal recipes`); other flags change it."""
    config: Path | None = None
    """Start from a saved config.json (or a run folder); other flags change it."""
    rules: tuple[str, ...] = ("block-local", "backprop", "frozen")
    """Rules, each with settings of its own where wanted: block-local:objective=variational,family=bernoulli."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every rule is trained with each."""
    output: Path | None = None
    """Folder of the comparison. Default: below runs/."""
    resume: bool = False
    """Go on with a stopped comparison: finished runs are kept."""
    replace: bool = False
    """Put the result in the place of an existing folder, once it is complete."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        check_settings(self, {"seeds": SEED})


@dataclass(frozen=True)
class EvaluateArguments:
    """Measure every block of a trained run on a split."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    split: str = "test"
    """test, validation or train."""
    data: str | None = None
    """Another data set with the same classes; default: the run's own."""
    calibrated: bool = False
    """With the temperatures, and the weights of the ensemble, that `blocklocal calibrate` has fitted."""
    coverage: float | None = None
    """Also measure the sets (of classes) or intervals (of values) that are to hold the truth with this probability,
    0.50 to 0.99; needs `blocklocal calibrate` first. For classes all figures are then those of --calibrated."""
    abstain: float | None = None
    """Also measure how many samples are answered where at most this share of the answers may be wrong (0.001, 0.002,
    0.005, 0.01, 0.02, 0.05, 0.1 or 0.2), and how many of them are wrong; needs `blocklocal calibrate` first. All
    figures are then those of --calibrated."""
    foreign: tuple[Path, ...] = ()
    """Also measure how well these files are told from the run's own samples as unlike the training data: images,
    folders of them, or one file of rows; needs `blocklocal calibrate` first. All figures are then those of
    --calibrated."""
    resize: bool = False
    """Scale and crop the images of --foreign to the size the model takes."""
    budget: float | None = None
    """Early exit: the share of the whole network's FLOPs that a sample may take in the mean (0.5); needs `blocklocal
    calibrate` first."""
    risk: float | None = None
    """Early exit: the share of answers that may be others than the output's (0.01); needs `blocklocal calibrate`
    first."""
    checkpoint: str | None = None
    """A named checkpoint; default: the newest."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: Path | None = None
    """Write the figures to this file too."""
    overwrite: bool = False
    """With --json: replace a file that blocklocal did not write."""
    visit: int | None = None
    """Keep one block in memory at a time, for so many batches in a row. Default: the whole network."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""


@dataclass(frozen=True)
class PredictArguments:
    """Class and confidence for images: of the output, of each block and of the ensemble."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE …]")]
    """Image files, or folders: then all images in them. Of a run on a table or on arrays, one file of rows."""
    resize: bool = False
    """Scale and crop images to the size the model takes."""
    output: Path | None = None
    """Write what is predicted to this file instead: .csv, a row per image, or .json, with all probabilities.
    Where every pixel has a class, a folder: a mask (PNG) for each image."""
    overwrite: bool = False
    """With --output: replace a file that blocklocal did not write."""
    coverage: float | None = None
    """Say too what holds the truth with this probability (0.9): of classes a set, of values an interval; needs
    `blocklocal calibrate` first."""
    abstain: float | None = None
    """Mark the answers that are not sure enough, so that at most this share of the others is wrong (0.01); needs
    `blocklocal calibrate` first."""
    foreign: bool = False
    """Say of every sample whether it is unlike the training data, by how far the blocks' predictions lie apart; needs
    `blocklocal calibrate` first."""
    budget: float | None = None
    """Early exit: the share of the whole network's FLOPs that a sample may take in the mean (0.5); needs `blocklocal
    calibrate` first."""
    risk: float | None = None
    """Early exit: the share of answers that may be others than the output's (0.01); needs `blocklocal calibrate`
    first."""
    checkpoint: str | None = None
    """A named checkpoint; default: the newest."""
    device: str = "auto"
    """auto, cpu or cuda."""
    visit: int | None = None
    """Keep one block in memory at a time, for so many batches in a row. Default: the whole network."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""


@dataclass(frozen=True)
class ReportArguments:
    """Write report.html again, for runs or comparisons."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders (several are shown beside each other) or comparison folders."""
    markdown: bool = False
    """Print the table of every comparison as Markdown too."""


def parse(kind: type[T], arguments: Sequence[str], prog: str, default: T | None = None) -> T:
    """Flags → dataclass.

    Raises:
        InputError: as the dataclasses do, which check the settings themselves.
        SystemExit: tyro has printed a help (0), or what is wrong with a flag (2).
    """
    extra: dict[str, Any] = {} if default is None else {"default": default}
    out, err = (allowing(stream, COLOURS) for stream in (sys.stdout, sys.stderr))  # what was given is printed again
    completing = any(argument.startswith("--tyro-") for argument in arguments)  # a shell is to know the choices
    names = nullcontext() if completing else _names_for_the_settings()
    _check_once(arguments, kind)
    _check_pairs(arguments)
    with _refusing(err, kind) as held, redirect_stdout(out), redirect_stderr(held), names:
        return tyro.cli(tyro.conf.OmitArgPrefixes[kind], prog=prog, args=list(arguments), **extra)


def _check_once(arguments: Sequence[str], kind: type) -> None:
    """Raise InputError where a flag of several values is given twice: only the last of them would count."""
    flags = [argument.partition("=")[0].replace("_", "-") for argument in arguments]
    for flag in flags_of(kind):
        if flag.several and flags.count(flag.names[0]) > 1:
            raise InputError(f"{flag.names[0]} is given twice: give it once, with all its values behind it.")


def _check_pairs(arguments: Sequence[str]) -> None:
    """Raise InputError where an option of the model has no value: tyro would say so in terms of its own."""
    for place, argument in enumerate(arguments):
        flag, equals, first = argument.replace("_", "-").partition("=")
        if flag == "--model-options":
            given = [first] if equals else []
            given += takewhile(lambda word: not word.startswith("--"), arguments[place + 1 :])
            if len(given) % 2:
                raise InputError(
                    "--model-options takes names and values in turn, such as --model-options depth 3; "
                    f"{printable(given[-1])!r} has no value."
                )


class _Held(Screen):
    """Keeps what is written until it is known whether it is to be shown."""

    def __init__(self, screen: Screen):
        super().__init__(screen.stream, screen.allowed)
        self.kept: list[str] = []

    def write(self, text: str) -> int:
        self.kept.append(text)
        return len(text)


@contextmanager
def _refusing(err: Screen, kind: type) -> Generator[_Held, None, None]:
    """Standard error for tyro.

    Where a dataclass refuses its settings, tyro catches that, prints it in a box under a name that is no flag
    (settings.model), and leaves: the error itself is raised then, with the flag as it is
    typed, and the box is not shown.
    """
    held = _Held(err)
    try:
        yield held
    except SystemExit as leave:
        refused = leave.__context__
        while refused is not None and not isinstance(refused, InputError):
            refused = refused.__context__
        if refused is not None:
            held.kept.clear()
            raise InputError(in_flags(str(refused), kind)) from None
        raise
    finally:
        err.write("".join(held.kept))


def _names_for_the_settings() -> tyro.constructors.ConstructorRegistry:
    """The names of a closed set (`choices`) stand in the help; which of them is meant, the settings say themselves."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def one_of(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[str] | None:
        if get_origin(info.type) is not Literal:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="{" + ",".join(values(info.type)) + "}",
            instance_from_str=lambda given: given[0],
            is_instance=lambda given: isinstance(given, str),
            str_from_instance=lambda given: [given],
        )

    @registry.primitive_rule
    def number_or_none(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        parts = set(get_args(info.type))
        if parts not in ({int, NoneType}, {float, NoneType}):
            return None
        (kind,) = parts - {NoneType}
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=lambda given: kind(given[0]),
            is_instance=lambda given: given is None or isinstance(given, kind),
            str_from_instance=lambda given: ["none" if given is None else str(given)],
        )

    return registry


def present_name(argument: str) -> str:
    """A flag of `train` (or flag=value) as it is called now."""
    flag, equals, value = argument.partition("=")
    return f"{RENAMED.get(flag, flag)}{equals}{value}"


def parse_with_base(kind: type[T], arguments: Sequence[str], prog: str) -> T:
    """As `parse`, over the defaults of --recipe or --config; `train` has its older flags under their present names."""
    if kind is TrainArguments:
        arguments = [present_name(argument) for argument in arguments]
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    scan.add_argument("--recipe")
    scan.add_argument("--config", type=Path)
    scan.add_argument("--model")
    scan.add_argument("--trust", action="store_true")
    base, _ = scan.parse_known_args(list(arguments))
    if base.recipe and base.config:
        raise InputError("give --recipe or --config, not both.")
    settings = Config()
    if base.recipe:
        settings = get_recipe(base.recipe)
    elif base.config:
        from blocklocal.runs.config import load_config
        from blocklocal.runs.origin import open_config

        own = base.model is not None  # then the model that the configuration names does not matter
        settings = load_config(base.config) if own else open_config(base.config, trust=base.trust)
    return parse(kind, arguments, prog, kind(settings=settings))  # type: ignore[call-arg]
