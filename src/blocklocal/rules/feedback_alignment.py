"""Feedback alignment: end-to-end, but errors flow back through fixed random kernels (Lillicrap et al. 2014).

The forward pass is untouched. While a block runs, every product with a weight that PyTorch is asked for (linear layers,
convolutions and transposed ones, attention, matrix products) uses that weight's own fixed feedback weight in the place
of the transposed weight when the gradient of its *input* is computed. The model is not copied or changed: the calls are
intercepted by a `TorchFunctionMode`. A network with weights in any other place (LSTM, …) is refused by name.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.message import Given
from blocklocal._common.modes import kept_modes
from blocklocal.block.step import ForwardContext
from blocklocal.rules.base import RULES, Rule, local_step
from blocklocal.rules.feedback_mode import FeedbackWeights
from blocklocal.rules.feedback_proof import check_errors

# Modules of torch whose weights are in no product that has a feedback weight: looked up, gains, or refused when called.
WITHOUT = (nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.LayerNorm, nn.RMSNorm)
LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


class FeedbackLayers(ForwardContext):
    """One fixed feedback weight per layer, Kaiming-uniform (He et al. 2015), as buffers named after the layers.

    Their scale is that of PyTorch's own initial weights (Kaiming-uniform too, with a = √5). With another one, such as
    the gain √2 of ReLU networks, BatchNorm, which divides errors by the scale of the forward weights, makes them grow
    by the ratio at every layer: √6 per layer, 10⁶ over a ResNet-18.

    The paper sets the bias of the feedback kernels to one; a constant has no derivative, so it changes no gradient and
    is not stored.

    Parameters of two or more axes that belong to no such layer (attention's, those of a user's own module) have one
    each, named after them.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        for name, shape_of in [(name, _like(module, own)) for name, module, own, _ in _weights(block)]:
            self.register_buffer(name, nn.init.kaiming_uniform_(shape_of, a=math.sqrt(5)))

    def context(self, block: nn.Module) -> FeedbackWeights:
        """The context in which `block` learns by these weights; made anew each time, it follows `.to(device)`."""
        known = {id(p): self.get_buffer(name) for name, *_, made_of in _weights(block) for p in made_of}
        return FeedbackWeights(block, known)

    def check(self, block: nn.Module, example: Given) -> None:
        """Raise InputError, with the layer's name, where an error would come back through a layer's own weights."""
        check_errors(block, example, self.context)


def _like(module: nn.Module, own: str) -> Tensor:
    """Memory for a weight of this shape. Asked for in evaluation mode: spectral_norm changes itself otherwise."""
    with kept_modes([module]):
        return torch.empty_like(getattr(module.eval(), own))


def _weights(block: nn.Module) -> Iterator[tuple[str, nn.Module, str, list[nn.Parameter]]]:
    """(name of the feedback weight, module and attribute that it stands for, the parameters which that is made of)."""
    layers = [(name, module) for name, module in block.named_modules() if isinstance(module, LAYERS)]
    layers.sort(key=lambda layer: not isinstance(layer[1], nn.Linear | nn.Conv2d))  # the others draw after them
    owned: set[int] = set()
    for name, layer in layers:
        parameters = [p for n, p in layer.named_parameters() if not n.startswith(("bias", "parametrizations.bias"))]
        owned |= {id(p) for p in parameters}
        yield _buffer_name(name), layer, "weight", parameters
    for path, module in block.named_modules():
        if not isinstance(module, WITHOUT):
            for own, p in module.named_parameters(recurse=False):
                if p.dim() > 1 and p.numel() and p.is_floating_point() and id(p) not in owned:
                    owned.add(id(p))
                    yield _buffer_name(f"{path}.{own}" if path else own), module, own, [p]


def _buffer_name(name: str) -> str:
    """With "/" for ".", which buffers may not have, and in front, so that no name of an nn.Module's own is taken."""
    return "/" + name.replace(".", "/")


RULES.add(
    "feedback-alignment",
    Rule(
        "feedback-alignment",
        "end to end through fixed random feedback kernels",
        local_step,
        local=False,
        whole=True,
        forward_context=FeedbackLayers,
    ),
)
