"""One block in memory at a time: blocks rest in files or host memory, and each is fetched for many steps in a row."""

from blocklocal.streaming.streamed import Streamed

__all__ = ["Streamed"]
