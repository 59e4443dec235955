"""How the blocks learn: the settings of a rule and of its local losses, validated once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from blocklocal._common.choices import (
    FamilyName,
    NormaliseSetting,
    ObjectiveName,
    OrderSetting,
    ReconstructName,
    RuleName,
    ScopeName,
    TwinName,
    check_choices,
)
from blocklocal._common.errors import InputError, shown, unknown
from blocklocal._common.ranges import LARGEST, WEIGHT, Range, check_settings, whole
from blocklocal.block.objectives import OBJECTIVES
from blocklocal.block.shared import SHARED
from blocklocal.block.twin import TWINS
from blocklocal.families import FAMILIES, Family, family
from blocklocal.rules import RULES

AUTO = "auto"
RANGES = {
    "rectified_temperature": Range(1e-6, LARGEST, zero=True),
    "categorical_size": whole(2, 10**6),
    "temperature": Range(1e-6, LARGEST),
    "message_delay": whole(0, 10_000),
    "readout": whole(0, 100),
    "reconstruction": WEIGHT,
    "similarity": WEIGHT,
    "consistency": WEIGHT,
    "barlow": WEIGHT,
    "tau": WEIGHT,
    "label_smoothing": Range(0, 1, below=True),
    "negatives": Range(0, 1, above=True),
}


@dataclass(frozen=True)
class Learning:
    """Rule and local losses. What a rule fixes itself (a greedy block has no twin) is ignored here.

    Every field has a default, so a change names only what differs: `Learning(rule="greedy", readout=1)`. The same
    names are keyword arguments of `BlockLocal` and flags of the command line.

    Raises:
        InputError: a name is unknown, a number lies outside its range, or two settings exclude each other.
    """

    rule: RuleName | str = "block-local"
    """Learning rule: one of these, or one that you registered."""
    objective: ObjectiveName | str = "evidence"
    """Loss of the hidden blocks: evidence (default), variational (Eq. 7), printed-eq8 (Eq. 8), projection (DRTP), none
    (reconstruction or similarity alone)."""
    family: FamilyName | str = "auto"
    """Exponential family of the latents; it should match what the next block reads. auto: gaussian for residual streams
    (networks with a LayerNorm or an RMSNorm), rectified for all others, as ReLU networks."""
    rectified_temperature: float = 0.0
    """Temperature of the rectified family; 0 is the limit whose mean is the ReLU."""
    categorical_size: int = 2
    """Classes per latent unit of the categorical family."""
    temperature: float = 1.0
    """Divides the evidence before its softmax."""
    order: OrderSetting = "auto"
    """Evidence to first or second order in the message, or exact (second where a rectified cut follows a ReLU). auto:
    first for tokens, second for all else."""
    twin: TwinName | str = "auto"
    """Backward network: dense (one per block), chain (dense layers in a row), mirrored (the blocks reversed) or shared
    (the table of the last block's linear layer). auto: shared for tokens where there is that layer, else dense."""
    message_delay: int = 0
    """Steps that the messages of a chained twin (chain, mirrored) are late; of the twin shared, steps after which its
    table moves one block further. Several processes need 1 or more."""
    normalise: NormaliseSetting = "auto"
    """Read the latent off the output normalised over units (as a pre-norm block does) or over the batch; or none. auto:
    units for residual streams of other targets than tokens, else none."""
    readout: int = 2
    """Layers between a block's output and its latent (maps: pairs of convolutions; 0: none); off the forward path."""
    reconstruction: float = 0.0
    """Weight of predicting the image (or the block's input) from the block's output."""
    reconstruct: ReconstructName = "image"
    """What is reconstructed: image, at the block's resolution, or the block's input."""
    similarity: float = 0.0
    """Weight of the similarity-matching term (Nøkland & Eidnes 2019)."""
    consistency: float = 0.0
    """Weight of giving the second view of an image without a label the class that the block itself, if it is sure,
    gives the first (FixMatch, Sohn et al. 2020). Batches then hold two views."""
    barlow: float = 0.0
    """Weight of the Barlow Twins term: units tell the same of two views, each something else (Zbontar et al. 2021).
    Batches then hold two views."""
    scope: ScopeName = "local"
    """local: no gradient crosses a block boundary; neighbour: the loss of block k+1 reaches block k, never further."""
    tau: float = 0.0
    """Mixing schedule m = 1/(1 + tau·epoch) of the variational objectives."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in every classification loss."""
    negatives: float = 1.0
    """Of a text: share of the tokens that a batch does not hold over which hidden blocks normalise their loss, drawn
    anew in every step. Less saves time where the vocabulary is large; what blocks predict is always over all tokens."""

    def __post_init__(self) -> None:
        RULES.get(self.rule)
        OBJECTIVES.get(self.objective)
        if self.family != AUTO:
            FAMILIES.get(self.family)
        if self.twin != AUTO:
            TWINS.get(self.twin)
        check_choices(self)
        check_settings(self, RANGES)
        self.latent_family()  # says itself what is wrong with its parameters
        if self.objective == "printed-eq8" and self.rule == "block-local" and self.family != "bernoulli":
            raise InputError(f"printed-eq8 is defined for family='bernoulli' alone, not {self.family!r}.")

    def decided(self, *, stream: bool, tokens: bool, table: bool) -> "Learning":
        """The same with a name for every auto.

        Args:
            stream: the blocks pass a residual stream on, which is read through a norm.
            tokens: the next token of a text is asked for.
            table: the last block has a linear layer with a row for every target.
        """
        usual = {
            "family": "gaussian" if stream else "rectified",
            "order": "first" if tokens else "second",
            "twin": SHARED if tokens and table else "dense",
            "normalise": "units" if stream and not tokens else "none",
        }
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) == AUTO})

    @property
    def two_views(self) -> bool:
        """Whether a batch must hold two views of every sample (`block.views`)."""
        return bool(self.consistency or self.barlow)

    def latent_family(self) -> Family:
        """The family of the hidden blocks' latents, with its own parameters; rectified where it is not decided yet."""
        if self.family in ("rectified", AUTO):
            return family("rectified", temperature=self.rectified_temperature)
        if self.family == "categorical":
            return family("categorical", size=self.categorical_size)
        return family(self.family)


class LearningSettings(TypedDict, total=False):
    """The fields of `Learning` as keyword arguments, for editors and type checkers; a test compares the two."""

    rule: RuleName | str
    objective: ObjectiveName | str
    family: FamilyName | str
    rectified_temperature: float
    categorical_size: int
    temperature: float
    order: OrderSetting
    twin: TwinName | str
    message_delay: int
    normalise: NormaliseSetting
    readout: int
    reconstruction: float
    reconstruct: ReconstructName
    similarity: float
    consistency: float
    barlow: float
    scope: ScopeName
    tau: float
    label_smoothing: float
    negatives: float


def learning_of(learning: Learning | None, settings: Mapping[str, Any]) -> Learning:
    """The `Learning` that is given, or the default, with these fields changed.

    Raises:
        InputError: a name is unknown, a value cannot be used, or it is no `Learning`.
    """
    known = {field.name for field in fields(Learning)}
    for name in settings:
        if name not in known:
            raise unknown("setting", name, known)
    if learning is not None and not isinstance(learning, Learning):
        raise InputError(
            f"learning must be a Learning, as in Learning(rule='greedy'), not {shown(learning)}; or give its fields by "
            "name: BlockLocal(…, rule='greedy')."
        )
    return replace(learning or Learning(), **settings)
