"""Schemas of a checkpoint's `checksums.json` and `state.json`."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from blocklocal.schemas.kinds import MOST_BLOCKS, Number, Seconds, Text, Whole
from blocklocal.schemas.run import Epoch, Figures

Sum = Annotated[float, Meta(ge=-1e300, le=1e300)]
_PerBlock = Meta(min_length=1, max_length=MOST_BLOCKS)


class Checksum(Struct, forbid_unknown_fields=True):
    """The size of a file, and a sum of its content: XXH128, as `xxhsum -H2` prints it, or SHA-256 of older versions."""

    bytes: Whole
    xxh128: Annotated[str, Meta(min_length=32, max_length=32)] | UnsetType = UNSET
    sha256: Annotated[str, Meta(min_length=64, max_length=64)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.xxh128 is UNSET) == (self.sha256 is UNSET):
            raise ValueError("it must have one sum, xxh128 or sha256")


class TensorKind(Struct):
    """Shape and type of one saved tensor."""

    shape: list[Whole]
    dtype: Text


class TallyState(Struct):
    """Sums of an epoch in progress: "loss" (an entry per block), "part/BLOCK/NAME", "right/BLOCK".

    Of the last, accuracies or errors are made: [right, all] for classes.
    """

    steps: Annotated[int, Meta(ge=1, le=10**12)]
    sums: dict[Text, Sum | list[Sum]]

    def check(self, blocks: int) -> None:
        """Raise ValueError for sums that are not of so many blocks."""
        if "loss" not in self.sums:
            raise ValueError("sums has no loss")
        for name, value in self.sums.items():
            kind, _, rest = name.partition("/")
            block, _, part = rest.partition("/")
            length = {"loss": blocks, "part": None, "right": _sums(value)}.get(kind, 0)
            known = name == "loss" or (block.isdecimal() and int(block[:9]) < blocks and bool(part) == (kind == "part"))
            if not known or (len(value) if isinstance(value, list) else None) != length:
                raise ValueError(f"{name!r} is no sum of one of {blocks} blocks")


def _sums(value: object) -> int:
    """How many sums an accuracy or error is made of: at least two."""
    return max(2, len(value)) if isinstance(value, list) else 2


class Record(Epoch, kw_only=True):
    """What an epoch has left, as training goes on with it."""

    message: Figures  # pyrefly: ignore[bad-override]

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("train", "validation"):
            if getattr(self, f"{key}_top1") is None and getattr(self, f"{key}_rmse") is None:
                raise ValueError(f"{key}_top1 is missing")


class State(Struct):
    """`state.json`. What a `Trainer` has saved beside the step is there as a whole or not at all.

    Attributes:
        units: per block, name → shape and type of its tensors (the shape alone in checkpoints of older versions).
    """

    step: Whole
    units: Annotated[list[dict[Text, list[Whole] | TensorKind]], _PerBlock]
    epoch: Whole | UnsetType = UNSET
    step_in_epoch: Whole | UnsetType = UNSET
    seconds: Seconds | UnsetType = UNSET
    images: Whole | UnsetType = UNSET
    records: list[Record] | UnsetType = UNSET
    tally: TallyState | UnsetType | None = UNSET
    start: tuple[Number | None, Seconds, Whole] | UnsetType | None = UNSET
    steps_per_epoch: Whole | None = None
    network_epoch: Whole | UnsetType = UNSET  # of a network that was saved without a trainer

    def __post_init__(self) -> None:
        kept = ("epoch", "step_in_epoch", "seconds", "images", "records", "tally", "start")
        missing = [name for name in kept if getattr(self, name) is UNSET]
        if missing:
            if len(missing) < len(kept):
                raise ValueError(f"{missing[0]} is missing")
            return
        if isinstance(self.tally, TallyState):
            self.tally.check(len(self.units))
        if any(len(record.loss) != len(self.units) for record in self.records or ()):
            raise ValueError(f"records are not of {len(self.units)} blocks")
        if bool(self.step_in_epoch) != (self.tally is not None) or bool(self.tally) != bool(self.start):
            raise ValueError("the sums of the epoch in progress do not go with step_in_epoch")
        if self.steps_per_epoch and self.step_in_epoch > self.steps_per_epoch:  # pyrefly: ignore[unsupported-operation]
            raise ValueError(f"step_in_epoch is more than steps_per_epoch, {self.steps_per_epoch}")

    @property
    def described(self) -> bool:
        """Whether it is of a version that writes types and checksums."""
        return any(isinstance(kind, TensorKind) for unit in self.units for kind in unit.values())
