"""Small run folders as a training run would leave them, and how to look into a page."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path

SECTIONS = ["result", "comparison", "learning", "depth", "classes", "messages", "examples", "warnings", "settings"]
BLOCKS = 3
COMMON = {"model": "mlp", "width": 32, "data": "digits", "train_size": 1400, "test_size": 397, "epochs": 4}


def png() -> str:
    from PIL import Image

    buffer = BytesIO()
    Image.new("L", (8, 8), 128).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def summary(rule: str = "block-local", seed: int = 0, test: float = 90.0, **changes) -> dict:
    row = {
        "rule": rule,
        "objective": "evidence" if rule == "block-local" else None,
        **COMMON,
        "seed": seed,
        "blocks": BLOCKS,
        "block_names": ["stem", "middle", "head"],
        "test_top1": test,
        "test_top3": 99.0,
        "train_top1": test + 2.0,
        "validation_top1": test - 1.0,
        "test_nll": 0.31,
        "test_ece": 0.02,
        "block_test_top1": [test - 20.0, test - 5.0, test],
        "seconds": 12.5,
        "threads": 1,
        "device": "cpu",
        "torch": "2.13.0",
        "parameters": 12345,
        "processes": 1,
        "finished": True,
    }
    return {**row, **changes}


def epoch(number: int, accuracy: float = 50.0) -> dict:
    return {
        "event": "epoch",
        "epoch": number,
        "step": number * 10,
        "seconds": 1.0,
        "images_per_second": 1000.0,
        "lr": 0.1,
        "loss": [1.0 / number, 0.9 / number, 0.8 / number],
        "train_top1": [accuracy, accuracy + 1, accuracy + 2],
        "validation_top1": [accuracy - 1, accuracy, accuracy + 1],
        "message": [0.5, 0.6, None],
        "parts": [{"evidence": 0.7, "reconstruction": 0.1}, {"evidence": 0.5}, {"cross-entropy": 0.8}],
    }


CONFUSION = {
    "of": "classes",
    "names": ["cat & dog", "<b>fish</b>", "bird"],
    "counts": [[0, 0, 9], [0, 1, 1], [1, 1, 2], [1, 2, 6], [2, 2, 4]],
}


def write_run(folder: Path, *, row: dict | None, epochs: list[dict], examples: bool = False) -> Path:
    folder.mkdir(parents=True)
    config = {"rule": "block-local", "data": "digits", "epochs": 4, "seed": 0, "note": "<b>bold</b>"}
    (folder / "config.json").write_text(json.dumps({**config, **({"rule": row["rule"]} if row else {})}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in epochs))
    if row is not None:
        (folder / "summary.json").write_text(json.dumps(row))
    if examples:
        blocks = [{"block": k + 1, "predicted": k, "confidence": 0.3 * (k + 1)} for k in range(BLOCKS)]
        shown = [{"png": png(), "label": y, "predicted": 2, "confidence": 0.9, "blocks": blocks} for y in (1, 2)]
        content = {"classes": ["<script>alert(1)</script>", "cat & dog", "$a$"], "examples": shown}
        (folder / "examples.json").write_text(json.dumps(content))
    return folder


def page(path: Path) -> str:
    assert path.name == "report.html"
    return path.read_text(encoding="utf-8")


def section(text: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', text, re.DOTALL)
    assert found, name
    return found.group(1)
