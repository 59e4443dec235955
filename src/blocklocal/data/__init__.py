"""Image sets, tables and arrays, and batches of them.

What the room offers is imported when it is first asked for: the processes that decode images need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocklocal.data.arrays import load_arrays
    from blocklocal.data.augment import AUGMENTATIONS, augmenter, cutout, random_crop, random_flip
    from blocklocal.data.batches import Batches
    from blocklocal.data.cache import default_cache_dir
    from blocklocal.data.images import Images, ImageSet, channel_statistics
    from blocklocal.data.load import load_images
    from blocklocal.data.samples import SampleBatches, Samples, SampleSet
    from blocklocal.data.table_set import load_table

__all__ = [
    "AUGMENTATIONS",
    "Batches",
    "ImageSet",
    "Images",
    "SampleBatches",
    "SampleSet",
    "Samples",
    "augmenter",
    "channel_statistics",
    "cutout",
    "default_cache_dir",
    "load_arrays",
    "load_images",
    "load_table",
    "randaugment",
    "random_crop",
    "random_flip",
    "random_resized_crop",
]

_HOMES = {
    "arrays": ("load_arrays",),
    "augment": ("AUGMENTATIONS", "augmenter", "cutout", "random_crop", "random_flip"),
    "batches": ("Batches",),
    "cache": ("default_cache_dir",),
    "images": ("ImageSet", "Images", "channel_statistics"),
    "load": ("load_images",),
    "randaugment": ("randaugment",),
    "table_set": ("load_table",),
    "samples": ("SampleBatches", "SampleSet", "Samples"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """An exported name from its home, kept here, so that it is asked for once."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
