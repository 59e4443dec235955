"""The names a setting may take, each set written down once as a `Literal`.

The types of the settings are these aliases, so an editor completes them, the command line offers them and
`check_choices` refuses anything else. Where users may register their own (rules, families, …) the setting's type is
`RuleName | str`: any registered name is accepted, and the registry itself says which there are. A test holds each of
those aliases equal to its registry.
"""

from functools import cache
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from blocklocal._common.errors import unknown

# Closed sets: nothing can be added at run time.
OrderName: TypeAlias = Literal["exact", "second", "first"]
ScopeName: TypeAlias = Literal["local", "neighbour"]
ReconstructName: TypeAlias = Literal["image", "input"]
OrderSetting: TypeAlias = Literal["auto", "exact", "second", "first"]
NormaliseSetting: TypeAlias = Literal["auto", "none", "units", "batch"]
BalanceName: TypeAlias = Literal["count", "time", "flops", "bytes"]
ScheduleName: TypeAlias = Literal["one-cycle", "cosine", "warmup-cosine", "constant"]
DecayName: TypeAlias = Literal["auto", "all", "matrices"]
PrecisionName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
OptimizerName: TypeAlias = Literal["sgd", "adam", "adamw"]
OptimizerSetting: TypeAlias = Literal["auto", "sgd", "adam", "adamw"]
LoggerName: TypeAlias = Literal["wandb", "mlflow"]
KeepName: TypeAlias = Literal["newest", "best"]
ImagesIn: TypeAlias = Literal["auto", "memory", "disk"]
TargetKind: TypeAlias = Literal["auto", "classes", "values", "shares"]

# What the package itself registers; users may add to these.
RuleName: TypeAlias = Literal[
    "backprop",
    "block-local",
    "deep-supervision",
    "direct-feedback-alignment",
    "feedback-alignment",
    "frozen",
    "greedy",
    "target-projection",
]
FamilyName: TypeAlias = Literal[
    "bernoulli",
    "categorical",
    "exponential",
    "gaussian",
    "gaussian-variance",
    "poisson",
    "rectified",
]
ObjectiveName: TypeAlias = Literal["evidence", "none", "printed-eq8", "projection", "variational"]
TwinName: TypeAlias = Literal["dense", "chain", "mirrored", "shared"]
ModelName: TypeAlias = Literal[
    "conv1d",
    "decoder",
    "mlp",
    "resnet110",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "unet",
    "vgg8b",
]


def values(choice: Any) -> tuple[str, ...]:
    """The names of one of the aliases above, in the order written there."""
    return get_args(choice)


def is_choice(hint: Any) -> bool:
    """Whether a type names choices: one of the aliases above, alone or with `| str` behind it."""
    return get_origin(hint) is Literal or any(get_origin(part) is Literal for part in get_args(hint))


@cache
def _closed(kind: type) -> dict[str, tuple[str, ...]]:
    """Field → its names, for the fields of a dataclass whose type is a closed set."""
    hints = get_type_hints(kind)
    return {name: values(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def check_choices(settings: Any, *names: str) -> None:
    """Check every field of a dataclass whose type is a closed set, or those of these names.

    Raises:
        InputError: a value is not in its set; the message gives the nearest name and all that there are.
    """
    for name, known in _closed(type(settings)).items():
        if names and name not in names:
            continue
        given = getattr(settings, name)
        if not isinstance(given, str) or given not in known:
            raise unknown(name, given, known)
