"""Public configurations of other libraries and plain torch, tiny, and what is shown of each: the table of models.md.

`python tests/model_families.py` writes the table again.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from other_libraries import TEXT, ids, images, quiet_import
from splitting_helpers import compose
from torch import fx, nn

from blocklocal import BlockLocal, Split, sgd, split
from blocklocal._common.message import call
from blocklocal.splitting.calls import one_tensor
from blocklocal.splitting.running_block import RunningBlock

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
HEAD = "| library | model | cut by | blocks begin at | equal | learns | loads |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Family:
    """One configuration: `build` makes the model, `x` is a batch, `classes` what it tells apart."""

    library: str
    name: str
    build: Callable[[], nn.Module]
    x: Any
    classes: int = 5
    per_token: bool = False


def hf(kind: str, x: Any = None, classes: int = 5, per_token: bool = False, **settings: Any) -> Family:
    def build() -> nn.Module:
        lib = quiet_import("transformers")
        config = re.sub(r"For.*|LMHeadModel", "Config", kind)
        labels = {} if "LM" in kind else {"num_labels": classes}
        return getattr(lib, kind)(getattr(lib, config)(**settings, **labels))

    return Family("transformers", kind, build, ids() if x is None else x, classes, per_token)


def timm(name: str, side: int = 64, **options: Any) -> Family:
    return Family(
        "timm", name, lambda: quiet_import("timm").create_model(name, num_classes=5, **options), images(4, side)
    )


def vision(name: str, side: int = 64, **options: Any) -> Family:
    def build() -> nn.Module:
        return quiet_import("torchvision").models.get_model(name, weights=None, num_classes=5, **options)

    return Family("torchvision", name, build, images(4, side))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.first, self.encoder, self.head = nn.Linear(6, 16), nn.TransformerEncoder(layer, 4), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.encoder(self.first(x), src_key_padding_mask=padding_mask).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([kind(6, 6, batch_first=True) for _ in range(4)])
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        return self.head(x[:, -1])


def _signal() -> nn.Module:
    layers = [nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5))


def _table() -> nn.Module:
    layers = [nn.Sequential(nn.Linear(9, 9), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(*layers, nn.Linear(9, 5))


_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
_VIT |= {"patch_size": 8}
_SIGNAL = torch.randn(4, 10, 6, generator=torch.Generator().manual_seed(1))
_GPT = {"vocab_size": 50, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 20, "tie_word_embeddings": False}
_DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 20}
_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [2, 2, 2, 2]}

FAMILIES = [
    hf("ViTForImageClassification", images(), **_VIT),
    hf("DeiTForImageClassification", images(), **_VIT),
    hf(
        "SwinForImageClassification", images(side=64), image_size=64, embed_dim=8, depths=[2, 2, 2],
        num_heads=[1, 2, 2], window_size=4,
    ),
    hf("ConvNextForImageClassification", images(side=64), **_STAGES),
    hf("ResNetForImageClassification", images(side=64), embedding_size=8, layer_type="basic", **_STAGES),
    hf("BertForSequenceClassification", **TEXT),
    hf("BertForTokenClassification", per_token=True, **TEXT),
    hf("DistilBertForSequenceClassification", **_DISTIL),
    hf("RobertaForSequenceClassification", **{**TEXT, "pad_token_id": 1}),
    hf("GPT2LMHeadModel", classes=50, per_token=True, pad_token_id=0, bos_token_id=1, eos_token_id=2, **_GPT),
    hf("LlamaForCausalLM", classes=50, per_token=True, num_key_value_heads=2, **TEXT),
    hf("Qwen2ForCausalLM", classes=50, per_token=True, num_key_value_heads=2, **TEXT),
    timm("resnet18"),
    timm("regnetx_002"),
    timm("efficientnet_b0"),
    timm("mobilenetv4_conv_small"),
    timm("convnext_atto"),
    timm("vit_tiny_patch16_224", img_size=64),
    timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2),
    timm("deit_tiny_patch16_224", img_size=64),
    timm("mixer_s32_224", img_size=64),
    timm("ghostnet_100"),
    vision("resnet18"),
    vision("mobilenet_v3_small"),
    vision("efficientnet_b0"),
    vision("convnext_tiny"),
    vision("vit_b_16", image_size=64),
    vision("swin_t"),
    vision("densenet121"),
    vision("regnet_y_400mf"),
    vision("googlenet", init_weights=False),
    Family("torch", "nn.TransformerEncoder", Encoder, _SIGNAL),
    Family("torch", "LSTM layers in a list", lambda: Recurrent(nn.LSTM), _SIGNAL),
    Family("torch", "GRU layers in a list", lambda: Recurrent(nn.GRU), _SIGNAL),
    Family("torch", "1-D convolutions", _signal, _SIGNAL.transpose(1, 2)),
    Family("torch", "MLP on a table", _table, torch.randn(4, 9)),
]  # fmt: skip


def built(family: Family) -> nn.Module:
    torch.manual_seed(0)
    return family.build()


def is_equal(parts: Split, model: nn.Module, x: Any) -> bool:
    """Values of the blocks in order and of the model in both modes, with the same random numbers."""
    same = []
    for training in (True, False):
        model.train(training)
        outputs = []
        for part in parts.blocks:
            part.train(training)
        for run in (lambda: one_tensor(call(model, x), ""), lambda: compose(parts.blocks, x)):
            torch.manual_seed(7)
            with torch.no_grad():
                outputs.append(run())
        same.append(torch.allclose(*outputs, rtol=1e-4, atol=1e-5))
    return all(same)


def learns(parts: Split, family: Family, steps: int = 16) -> bool:
    """Whether the loss of every block falls on one batch."""
    shape = ids()["input_ids"].shape if family.per_token else (4,)
    y = torch.randint(0, family.classes, shape, generator=torch.Generator().manual_seed(5))
    network = BlockLocal(parts, classes=family.classes, example=family.x, optimizer=sgd(0.005))
    losses = [[float(result.loss) for result in network.step(family.x, y)] for _ in range(steps)]
    return all(last < first for first, last in zip(losses[0], losses[-1], strict=True))


def loads(parts: Split, family: Family) -> bool:
    """Whether a new model of the same class takes the trained weights and gives the same."""
    plain, fresh = parts.to_plain(), built(family)
    fresh.load_state_dict(plain.state_dict())
    with torch.no_grad():
        one, other = (one_tensor(call(m.eval(), family.x), "") for m in (plain, fresh))
    return torch.equal(one, other)


def way(parts: Split) -> str:
    first = parts.blocks[0]
    if isinstance(first, RunningBlock):
        return "running"
    return "tracing" if isinstance(first, fx.GraphModule) else "its order"


def row(family: Family) -> str:
    model = built(family)
    parts = split(model, blocks=4, example=family.x)
    begins = ", ".join(f"`{name.split('–')[0]}`" for name in parts.names[1:])
    facts = (is_equal(parts, model, family.x), learns(parts, family), loads(parts, family))
    marks = " | ".join("yes" if fact else "no" for fact in facts)
    return f"| {family.library} | {family.name} | {way(parts)} | {begins} | {marks} |"


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    wanted, rows = sys.argv[1:], []
    for each in FAMILIES:
        if not wanted or any(word in each.name for word in wanted):
            try:
                rows.append(row(each))
            except Exception as reason:
                rows.append(f"| {each.library} | {each.name} | FAILED {type(reason).__name__}: {str(reason)[:300]} |")
            print(rows[-1], flush=True)
    if not wanted:
        before, _, rest = PAGE.read_text().partition("<!-- table -->\n")
        after = rest.partition("<!-- end of table -->\n")[2]
        table = "\n".join([HEAD, *rows])
        PAGE.write_text(f"{before}<!-- table -->\n{table}\n<!-- end of table -->\n{after}")
