"""Image sets in memory, and batches of them."""

from blocklocal.data.augment import AUGMENTATIONS, augmenter, cutout, random_crop, random_flip
from blocklocal.data.batches import Batches
from blocklocal.data.cache import default_cache_dir
from blocklocal.data.images import Images, ImageSet, channel_statistics
from blocklocal.data.load import load_images

__all__ = [
    "AUGMENTATIONS",
    "Batches",
    "ImageSet",
    "Images",
    "augmenter",
    "channel_statistics",
    "cutout",
    "default_cache_dir",
    "load_images",
    "random_crop",
    "random_flip",
]
