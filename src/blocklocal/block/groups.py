"""Parameter groups: parameters of one block that an optimiser treats differently, as torch's optimisers take them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from blocklocal._common.errors import InputError, shown

Groups: TypeAlias = Callable[[str, nn.Parameter], Mapping[str, Any] | None]
"""From a parameter's name and the parameter to the settings in which it differs; none, or {}, for no difference."""
NORMS = ("LayerNorm", "RMSNorm")  # how the classes of such norms end, in torch and in other libraries


def normed(block: nn.Module) -> bool:
    """Whether a block has a LayerNorm or an RMSNorm, as transformers have."""
    return any(type(part).__name__.endswith(NORMS) for part in block.modules())


def parameter_groups(
    named: Sequence[tuple[str, nn.Parameter]],
    groups: Groups | None,
    *,
    matrices: bool,
    rates: Mapping[int, float] | None = None,
) -> list[dict[str, Any]]:
    """The parameters with equal settings together, in the order in which the first of them comes.

    Args:
        named: the parameters with their names.
        groups: gives settings by name.
        matrices: no weight decay on parameters of less than two dimensions; `groups` may say otherwise.
        rates: learning rates by the id of a parameter, where it has one of its own; `groups` may say otherwise.

    Raises:
        InputError: `groups` fails, or gives something else than settings.
    """
    found: list[dict[str, Any]] = []
    for name, parameter in named:
        settings: dict[str, Any] = {"weight_decay": 0.0} if matrices and parameter.dim() < 2 else {}
        if rates and id(parameter) in rates:
            settings["lr"] = rates[id(parameter)]
        if groups is not None:
            settings |= _asked(groups, name, parameter)
        same = [each for each in found if {k: v for k, v in each.items() if k != "params"} == settings]
        if not same:
            same = [{"params": [], **settings}]
            found += same
        same[0]["params"].append(parameter)
    return found


def _asked(groups: Groups, name: str, parameter: nn.Parameter) -> Mapping[str, Any]:
    try:
        given = groups(name, parameter)
    except Exception as error:  # a user's own function may fail in any way
        raise InputError(f"groups failed for the parameter {name!r}: {type(error).__name__}: {error}") from error
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given) or "params" in given:
        raise InputError(
            f'groups must give settings by name, as in {{"lr": 1e-4}}, for the parameter {name!r}, not {shown(given)}.'
        )
    return given
