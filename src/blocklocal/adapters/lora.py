"""Low-rank adapters (LoRA: Hu et al. 2021, arXiv 2106.09685) in a trained model of transformers, by peft.

Beside every linear layer W of a model, but for its head, stands a product B·A of low rank: the layer computes
W x + 2 B A x, and A and B alone are trained. After training they are added to W, and the model is a plain one again.
"""

import warnings
from typing import Any

from torch import nn

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.extras import check_extras

SCALE = 2  # of B·A: peft's lora_alpha over the rank


def add_lora(model: nn.Module, rank: int) -> None:
    """Give a model of transformers adapters of this rank, which alone are trained; and what begins anew, as a head.

    Args:
        model: with its trained weights.
        rank: of the products, 1 or more.

    Raises:
        InputError: peft is not installed, or cannot adapt the model.
    """
    check_extras("lora")
    import peft

    named: Any = model
    width = min((min(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)), default=rank)
    if rank > width:
        raise InputError(
            f"--lora {rank}: the narrowest linear layer has {width} units: give a rank of at most {width}."
        )
    body = named.base_model_prefix
    anew = [] if named.get_output_embeddings() is not None else [n for n, _ in named.named_children() if n != body]
    heads = [name for name, _ in named.named_modules() if name.partition(".")[0] in anew]  # with the layers inside
    config = peft.LoraConfig(
        r=rank, lora_alpha=SCALE * rank, target_modules="all-linear", exclude_modules=heads or None
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # peft sets it itself
            peft.inject_adapter_in_model(config, named)
    except Exception as reason:  # whatever the library raises
        raise InputError(f"peft cannot adapt a {type(model).__name__}: {first_line(reason)}.") from reason
    for name in anew:
        model.get_submodule(name).requires_grad_()


def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the weights beside which they stand, and take them out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
