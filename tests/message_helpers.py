"""Networks whose blocks pass on several tensors, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import blocklocal as bl
from blocklocal._common.message import Message

CLASSES, WIDTH, TOKENS = 3, 8, 10


class Down(nn.Module):
    """Keeps what the skip carries."""

    def __init__(self, given: int, made: int):
        super().__init__()
        self.conv = nn.Conv2d(given, made, 3, padding=1)

    def forward(self, x: Tensor) -> Message:
        skip = torch.relu(self.conv(x))
        return Message(nn.functional.max_pool2d(skip, 2), {"skip": skip})


class Middle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, given: Message) -> Message:
        return Message(torch.relu(self.conv(given.hidden)), given.beside)


class Up(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, given: Message) -> Tensor:
        wide = nn.functional.interpolate(given.hidden, scale_factor=2.0)
        return torch.relu(self.conv(torch.cat([wide, given.beside["skip"]], 1)))


class UNet(nn.Module):
    """A chain whose skip is carried beside the hidden tensor; `plain` is the same network as it is usually written."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.down, self.middle, self.up = Down(1, width), Middle(width), Up(width)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))

    def units(self) -> list[tuple[str, nn.Module]]:
        return [("down", self.down), ("middle", self.middle), ("up", self.up), ("head", self.head)]

    def forward(self, x: Tensor) -> Tensor:
        for _, unit in self.units():
            x = unit(x)
        return x

    def plain(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down.conv(x))
        h = torch.relu(self.middle.conv(nn.functional.max_pool2d(skip, 2)))
        wide = nn.functional.interpolate(h, scale_factor=2.0)
        return self.head(torch.relu(self.up.conv(torch.cat([wide, skip], 1))))


def u_net(**settings: Any) -> bl.BlockLocal:
    torch.manual_seed(0)
    known: dict[str, Any] = {"classes": CLASSES, "readout": 1, "optimizer": bl.adam(lr=0.003), **settings}
    return bl.BlockLocal(bl.split(UNet(), blocks=4), example=torch.zeros(2, 1, 8, 8), **known)


def images(sizes: tuple[int, ...] = (6, 6, 3)) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    found = []
    for size in sizes:
        y = torch.randint(0, CLASSES, (size,), generator=draw)
        found.append((torch.randn(size, 1, 8, 8, generator=draw) + y.view(-1, 1, 1, 1), y))
    return found


class Words(nn.Module):
    """Reads {"input_ids": [B, T], "attention_mask": [B, T]}."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH)

    def forward(self, x: dict[str, Tensor]) -> Message:
        return Message(self.table(x["input_ids"]), {}, x["attention_mask"].bool())


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True)

    def forward(self, given: Message) -> Message:
        assert given.mask is not None
        return Message(self.layer(given.hidden, src_key_padding_mask=~given.mask), given.beside, given.mask)


class Pooled(nn.Module):
    """Logits of a sequence, of its real positions alone; or of every position."""

    def __init__(self, per_position: bool):
        super().__init__()
        self.per_position, self.linear = per_position, nn.Linear(WIDTH, CLASSES)

    def forward(self, given: Message) -> Tensor:
        assert given.mask is not None
        if self.per_position:
            return self.linear(given.hidden)
        real = given.mask.unsqueeze(-1)
        return self.linear((given.hidden * real).sum(1) / real.sum(1))


class Reader(nn.Module):
    def __init__(self, per_position: bool = False):
        super().__init__()
        self.words, self.one, self.two, self.head = Words(), Layer(), Layer(), Pooled(per_position)

    def units(self) -> list[tuple[str, nn.Module]]:
        return list(self.named_children())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.words({"input_ids": input_ids, "attention_mask": attention_mask}))))


def reader(*, per_position: bool = False, **settings: Any) -> bl.BlockLocal:
    torch.manual_seed(0)
    known: dict[str, Any] = {"classes": CLASSES, "optimizer": bl.sgd(lr=0.1, momentum=0, weight_decay=0), **settings}
    return bl.BlockLocal(bl.split(Reader(per_position), blocks=4), example=sentences([5, 3])[0], **known)


def sentences(lengths: list[int], longest: int = 0, *, per_position: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """Sentences of these lengths, padded to the longest (or to `longest`) with words that mean nothing."""
    longest = longest or max(lengths)
    ids = torch.full((len(lengths), longest), 7)
    y = torch.zeros(len(lengths), longest, dtype=torch.int64)
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    for k, length in enumerate(lengths):
        ids[k, :length] = (torch.arange(length) * 3 + k) % TOKENS
        y[k, :length] = ids[k, :length] % CLASSES
    return {"input_ids": ids, "attention_mask": mask.long()}, y if per_position else torch.arange(
        len(lengths)
    ) % CLASSES


def lengths_vary(*, per_position: bool) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Longer ones behind shorter ones and the other way, and a smaller last batch."""
    return [sentences(given, per_position=per_position) for given in ([4, 2, 3], [9, 1, 2], [2, 2, 1], [6, 5, 6], [3])]


# name -> (what makes the network, its batches)
SEVERAL: dict[str, tuple[Callable[[], bl.BlockLocal], list[tuple[Any, Tensor]]]] = {
    "u-net": (u_net, images()),
    "sentences": (reader, lengths_vary(per_position=False)),
    "words": (partial(reader, per_position=True), lengths_vary(per_position=True)),
}
