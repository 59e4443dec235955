"""What must be known of other libraries' models: built by name, how they are called, and their inputs."""

from blocklocal.adapters.known import Usage, usage
from blocklocal.adapters.lora import add_lora, merge_lora
from blocklocal.adapters.names import build_named, build_named_text, is_named, tokenizer_of
from blocklocal.adapters.transformers import vocabulary_of

__all__ = [
    "Usage",
    "add_lora",
    "build_named",
    "build_named_text",
    "is_named",
    "merge_lora",
    "tokenizer_of",
    "usage",
    "vocabulary_of",
]
