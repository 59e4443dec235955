"""A run's trained model as a folder for others, with a model card that has the run's measured table."""

import json
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there, write_text
from blocklocal._common.measures import TOP1, main_of
from blocklocal.adapters import is_named, merge_lora
from blocklocal.block.gaussian_values import LEAST
from blocklocal.data.tokenizer import Tokenizer
from blocklocal.models.decoder import Decoder
from blocklocal.models.file import is_reference
from blocklocal.models.llama import save_llama
from blocklocal.network.network import BlockLocal
from blocklocal.network.pretrained import HOW_TO_LOAD, model_card
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.looking import load_network
from blocklocal.runs.saved import SUMMARY, TOKENIZER, read_summary
from blocklocal.runs.train import block_names

TRANSFORMERS = "hf:"  # how names of its models begin
HOW_TO_GENERATE = [
    "## Load it",
    "",
    "```python",
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
    'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
    "```",
]


HOW_TO_CLASSIFY = [
    "## Load it",
    "",
    "```python",
    "from transformers import AutoModelForImageClassification",
    "",
    'model = AutoModelForImageClassification.from_pretrained("FOLDER")',
    "```",
]


def export_run(run: Path, folder: Path, checkpoint: str | None = None, *, trust: bool = False) -> Path:
    """Write the model of a run: safetensors, config.json, README.md; of a text the tokenizer too.

    A decoder becomes a folder of the Llama type, which transformers opens.

    Args:
        folder: a new or empty one.
        checkpoint: default: that of the best epoch where the run keeps it, else the newest.

    Returns:
        The folder.

    Raises:
        InputError: there is no trained run, the folder holds other things, or the model's code may not run (`trust`).
    """
    config, facts, network = load_network(run, checkpoint, "cpu", trust=trust)
    if not isinstance(network, BlockLocal):
        raise InputError(f"{run} cannot be exported: its network is not whole.")
    if config.model.lora is not None:
        merge_lora(network.split.model)
    written = network.save_pretrained(folder, card=_card(run, config, facts, network), config=_facts(config, facts))
    if facts.text is not None:
        _write_text_files(run, written, network)
    return written


def _write_text_files(run: Path, folder: Path, network: BlockLocal) -> None:
    """The tokenizer, as transformers reads it; and a decoder as a folder of the Llama type."""
    tokenizer = Tokenizer.from_file(run / TOKENIZER)
    model = network.to_plain()
    if isinstance(model, Decoder):
        save_llama(model, folder, end=tokenizer.end)
    write_text(folder / TOKENIZER, tokenizer.to_text())
    end = None if tokenizer.end is None else tokenizer.inner.id_to_token(tokenizer.end)
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": end}
    write_text(folder / "tokenizer_config.json", json.dumps(kind, indent=2) + "\n")


def _facts(config: Config, facts: DatasetInfo) -> dict[str, Any]:
    """What whoever builds and feeds the model must know."""
    m = config.model
    model = {"name": m.model, "width": m.width, "options": m.model_options}
    return {"model": model, "image_size": [facts.channels, facts.height, facts.width], **facts.flat()}


def _card(run: Path, config: Config, facts: DatasetInfo, network: BlockLocal) -> str:
    learning = config.learning
    model, data = _without_folders(config.model.model), _without_folders(config.data.data)
    lines = [
        f"{model}, trained on {data} as {len(network.split.blocks)} blocks by blocklocal, under the rule "
        f"{learning.rule}.",
        "",
        *_measured(run, network),
        "",
        *_how_to_load(config, facts, network),
        "",
        *_inputs(facts, of_transformers=config.model.model.startswith(TRANSFORMERS)),
        *_statistics(config, facts),
    ]
    return model_card(f"{model} on {data}", lines, [learning.rule, _task(facts)])


def _without_folders(name: str) -> str:
    """The name of data or of a model, for others: of a whole path its last part."""
    library, colon, rest = name.partition(":") if is_named(name) else ("", "", name)
    path = Path(rest).expanduser()
    return f"{library}{colon}{path.name}" if path.is_absolute() else name


def _how_to_load(config: Config, facts: DatasetInfo, network: BlockLocal) -> list[str]:
    """How others open the folder: by transformers where it can, else by the module and its weights."""
    of_transformers = config.model.model.startswith(TRANSFORMERS)
    if facts.text is not None and (of_transformers or isinstance(network.to_plain(), Decoder)):
        return HOW_TO_GENERATE
    if of_transformers and facts.kind == "images":
        return HOW_TO_CLASSIFY
    return [*HOW_TO_LOAD, "", *_build(config, facts)]


def _task(facts: DatasetInfo) -> str:
    """The tag by which the hub sorts models."""
    if facts.text is not None:
        return "text-generation"
    kind = {"images": "image", "table": "tabular"}.get(facts.kind, "time-series")
    return f"{kind}-{'regression' if facts.predicts_values else 'classification'}"


def _inputs(facts: DatasetInfo, *, of_transformers: bool) -> list[str]:
    """What the model reads and gives, each a sentence."""
    if facts.text is not None:
        return [
            f"It reads up to {facts.width} tokens of tokenizer.json and gives logits of the next one at each position, "
            f"of {facts.text.vocabulary:,}."
        ]
    called = "Values" if facts.predicts_values else "Labels" if facts.predicts_labels else "Classes"
    where = "" if of_transformers else ", which are in config.json"
    read = {
        "images": f"Images are {facts.channels}x{facts.height}x{facts.width}; pixels from 0 to 255 minus `mean`, "
        f"divided by `std`{where}.",
        "table": f"A row is {facts.width} numbers, made of the table's columns as `features` in config.json says.",
        "series": f"A series has {facts.channels} channels and {facts.width} steps; each channel minus `mean`, divided "
        "by `std`, which are in config.json.",
    }
    said = [f"{called}: {', '.join(facts.classes)}. {read[facts.kind]}"]
    if facts.predicts_values:
        said += ["", "A value is the output times `std` plus `mean` of `answers` in config.json."]
        if facts.variance:
            said[-1] += (
                " The second half of the outputs is for the variances, in units of `std` squared: their softplus + "
                f"{LEAST:g}."
            )
    return said


def _statistics(config: Config, facts: DatasetInfo) -> list[str]:
    """Mean and deviation of pixels, which the config.json that transformers writes does not hold."""
    if facts.kind != "images" or not config.model.model.startswith(TRANSFORMERS):
        return []
    return ["", f"`mean` is {list(facts.mean)}, `std` is {list(facts.std)}, one number per channel."]


def _measured(run: Path, network: BlockLocal) -> list[str]:
    """The table of the run's result."""
    if not is_there(run / SUMMARY):
        return ["The run is not finished, so nothing has been measured on the test split."]
    result = read_summary(run)
    main = main_of([result], "test_")
    names = block_names(network)
    scores = result[f"block_test_{main.name}"]
    names = names if len(names) == len(scores) else names[-len(scores) :]
    rows = [(f"block {name}", score) for name, score in zip(names, scores, strict=True)]
    rows += [("all blocks together", result[f"combined_test_{main.name}"]), ("output", result[f"test_{main.name}"])]
    digits = max(main.digits, 2)
    table = [f"| {name} | {score:.{digits}f} |" for name, score in rows if score is not None]
    said = f"Measured on {result['test_size']} test samples, seed {result['seed']}, torch {result['torch']}."
    heading = "accuracy, %" if main is TOP1 else main.heading
    return [
        "## Measured",
        "",
        said,
        *_certainty(result),
        "",
        f"| prediction | test {heading} |",
        "| --- | ---: |",
        *table,
    ]


def _certainty(result: dict[str, Any]) -> list[str]:
    """Of classes and labels, what their probabilities are worth; of values nothing."""
    if result["test_top1"] is None or result["test_nll"] is None:
        return []
    error = "." if result["test_ece"] is None else f"; calibration error {result['test_ece']:.4f}."
    return [f"Negative log-likelihood {result['test_nll']:.4f} nats{error}"]


def _build(config: Config, facts: DatasetInfo) -> list[str]:
    """How the module is built."""
    m = config.model
    if is_reference(m.model):
        return [f"The module is made by `{m.model.rpartition(':')[2]}` of the run's own code."]
    if is_named(m.model):
        library, _, name = m.model.partition(":")
        return [f"The module is `{name}` of {library}, with {facts.outputs} outputs."]
    options = "".join(f", {name}={value!r}" for name, value in m.model_options.items())
    width = "" if m.width is None else f", width={m.width}"
    images = f"channels={facts.channels}, image_size=({facts.height}, {facts.width})"
    shape = images if facts.kind == "images" else f"input_shape={facts.shape}"
    if facts.features is not None and facts.features.sizes:
        shape += f", categories={facts.features.sizes}"
    call = f"classes={facts.outputs}, {shape}{width}{options}"
    return ["The module is", "", "```python", f'blocklocal.build_model("{m.model}", {call})', "```"]
