"""What a module is, as far as cutting needs to know."""

from torch import nn

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink,
    nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold, nn.GLU,
)  # fmt: skip
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip
PASSIVE = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Flatten, nn.Unflatten,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_weighted(module: nn.Module) -> bool:
    """Whether a module starts a new latent: it has parameters and is neither a norm nor an activation."""
    return not isinstance(module, ACTIVATIONS + NORMS) and any(True for _ in module.parameters())


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of torch.nn, or a subclass of one: one operation, whatever its forward does."""
    kinds = [kind for kind in type(module).__mro__ if kind not in _CONTAINERS]
    return any(kind.__module__.startswith(("torch.nn.", "torch.ao.nn.")) for kind in kinds)


def has_hooks(module: nn.Module) -> bool:
    """Whether something runs whenever the module is called, beside its forward."""
    return any(getattr(module, name, None) for name in _HOOKS)


def owns_train(module: nn.Module) -> bool:
    """Whether the module has a `train` of its own, for example to keep a part in evaluation mode."""
    own = (getattr(getattr(module, name), "__func__", None) for name in ("train", "eval"))
    return tuple(own) != (nn.Module.train, nn.Module.eval)
