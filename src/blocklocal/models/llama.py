"""Folders of transformers' Llama type (config.json, model.safetensors): a decoder written as one, and read from one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blocklocal._common.errors import InputError, first_line, shown
from blocklocal._common.files import read_bytes, write_text
from blocklocal.models.decoder import EPS, THETA, Decoder, Layer

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_HEAD, _BODY = "lm_head", "model."  # their names of weights: all but the head's have this before ours
_TYPE = "llama"


def llama_config(decoder: Decoder) -> dict[str, Any]:
    """The configuration with which transformers builds the same model."""
    layer = cast(Layer, decoder.layers[0])
    attention, mlp = layer.self_attn, layer.mlp
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": _TYPE,
        "vocab_size": decoder.embed_tokens.num_embeddings,
        "hidden_size": decoder.embed_tokens.embedding_dim,
        "intermediate_size": mlp.up_proj.out_features,
        "num_hidden_layers": len(decoder.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "max_position_embeddings": decoder.length,
        "rms_norm_eps": EPS,
        "rope_theta": attention.theta,
        "tie_word_embeddings": decoder.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


def save_llama(decoder: Decoder, folder: Path, *, end: int | None = None) -> None:
    """Write config.json and model.safetensors, as `LlamaForCausalLM.save_pretrained` does.

    Args:
        folder: an existing one.
        end: the token behind every document; None where there is none.
    """
    kept = {name: t.detach().cpu().contiguous() for name, t in decoder.state_dict().items()}
    if decoder.tied:  # written once, as the table of the embedding
        del kept[f"{_HEAD}.weight"]
    save_file({_theirs(name): t for name, t in kept.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    config = llama_config(decoder) | ({} if end is None else {"bos_token_id": end, "eos_token_id": end})
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def load_llama(folder: Path) -> Decoder:
    """The decoder of a folder of the Llama type, with its weights.

    Raises:
        InputError: it is no such folder, or one of a model with parts that the decoder has not.
    """
    file = folder / CONFIG
    config = _config(json.loads(read_bytes(file, what="a configuration of transformers' Llama type")), file)
    made = Decoder(
        config["vocab_size"],
        config["max_position_embeddings"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        hidden=config["intermediate_size"],
        tied=config.get("tie_word_embeddings", False),
        theta=_theta(config),
    )
    try:
        kept = {_ours(name): t for name, t in load_file(folder / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {folder / WEIGHTS}: {first_line(error)}. Give a folder with one.") from error
    if made.tied:
        kept.setdefault(f"{_HEAD}.weight", kept["embed_tokens.weight"])
    _load(made, kept, folder)
    return made


def _load(made: Decoder, kept: Mapping[str, Tensor], folder: Path) -> None:
    try:
        made.load_state_dict({name: t.float() for name, t in kept.items()})
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS} holds other weights than {CONFIG} says: {first_line(error)}.") from error


_FIXED = {
    "model_type": _TYPE,
    "hidden_act": "silu",
    "rms_norm_eps": EPS,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "head_dim": None,
}
"""What the decoder has no choice of; a configuration may leave all but the first out."""


def _config(config: Any, file: Path) -> dict[str, Any]:
    """A configuration whose model the decoder is."""
    if not isinstance(config, dict) or config.get("model_type") != _TYPE:
        kind = config.get("model_type") if isinstance(config, dict) else config
        raise InputError(f"{file} is of the type {shown(kind)}, and the decoder is of the type {_TYPE!r}.")
    for name, wanted in _FIXED.items():
        given = config.get(name, wanted)
        if name == "head_dim" and given == config["hidden_size"] // config["num_attention_heads"]:
            continue
        if given is not None and given != wanted and not (name == "rms_norm_eps" and abs(given - EPS) < EPS / 10):
            raise InputError(
                f"{file}: {name} is {shown(given)}, and the decoder has {shown(wanted)}: use --model hf:{file.parent}, "
                "which builds transformers' own."
            )
    return config


def _theta(config: Mapping[str, Any]) -> float:
    """The base of the rotary positions, where either generation of transformers has it."""
    inside = config.get("rope_parameters") or {}
    return float(inside.get("rope_theta", config.get("rope_theta", THETA)))


def _theirs(name: str) -> str:
    return name if name.startswith(_HEAD) else f"{_BODY}{name}"


def _ours(name: str) -> str:
    return name.removeprefix(_BODY)
