"""Large tensors read from checkpoints: what is changed afterwards is never the file, which may go meanwhile."""

from pathlib import Path

import pytest
import torch

from blocklocal.training.checkpoint_draft import Draft, Saved
from blocklocal.training.checkpoint_files import Files, write_checksums
from blocklocal.training.pages import OWN_PAGES, Pages, room
from blocklocal.training.tensor_file import read_tensors, write_tensors

LARGE = OWN_PAGES // 2  # numbers of four bytes: twice as large as what gets pages of its own


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (LARGE,), (2, LARGE // 2), (LARGE, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_room_has_the_shape_and_the_type_that_were_asked_for(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = room(shape, dtype)
    assert made.shape == torch.Size(shape)
    assert made.dtype == dtype
    assert made.is_contiguous()
    assert made.data_ptr() % 64 == 0 or not made.numel()
    made.fill_(1)
    assert (made == 1).all()


def test_what_is_read_may_change_and_the_file_stays(tmp_path: Path) -> None:
    values = {"large": torch.randn(LARGE), "small": torch.randn(3)}
    write_tensors(tmp_path / "file", values)
    first, _ = read_tensors(tmp_path / "file", most=2**30)
    for value in first.values():
        value.zero_()
    second, _ = read_tensors(tmp_path / "file", most=2**30)
    assert all(torch.equal(second[name], value) for name, value in values.items())


def test_optimiser_states_may_change_and_their_file_stays_or_goes(tmp_path: Path) -> None:
    moments = torch.randn(LARGE)
    draft = Draft.open(tmp_path, 3)
    draft.write_saved(Saved(0, {}, {"optimizer": {"state": {0: {"exp_avg": moments}}}, "schedule": None}))
    write_checksums(draft.partial, draft.sums)
    files = Files.open(draft.partial)
    first = files.optimizer(0)["optimizer"]["state"][0]["exp_avg"]
    first.zero_()
    second = files.optimizer(0)["optimizer"]["state"][0]["exp_avg"]  # its checksum still holds
    (draft.partial / "block-0.moments").unlink()
    assert torch.equal(second, moments)
    assert not first.any()


def test_pages_of_a_tensor_that_is_gone_are_those_of_the_next_of_its_size() -> None:
    kept = Pages()
    with kept.used():
        first = room((LARGE,), torch.float32).fill_(1)
        place = first.data_ptr()
        part = first[3:]  # holds the same pages
        del first
        second = room((LARGE,), torch.float32).fill_(2)
        assert second.data_ptr() != place
        assert (part == 1).all()
        del part
        assert room((2, LARGE // 2), torch.float32).data_ptr() == place


def test_what_is_kept_makes_room_for_what_does_not_fit() -> None:
    kept = Pages()
    with kept.used():
        for size in (LARGE, LARGE // 2, LARGE, 2 * LARGE, LARGE):
            room((size,), torch.float32).zero_()
            held = sum(len(pages) * each for each, pages in kept._kept.items()) + sum(map(len, kept._given))
            assert held <= 4 * 2 * LARGE  # bytes of the largest that was in use
    kept.close()
    assert not kept._kept
    assert not kept._given


def test_a_tensor_outlives_the_pages_that_were_kept_beside_it() -> None:
    kept = Pages()
    with kept.used():
        tensor = room((LARGE,), torch.float32).fill_(3)
    kept.close()
    assert (tensor == 3).all()
    del tensor
    assert not kept._given
    assert room((LARGE,), torch.float32).is_contiguous()  # outside, as ever


def test_without_memory_a_file_that_is_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    write_tensors(tmp_path / "file", {"large": torch.randn(LARGE)})
    monkeypatch.setattr("mmap.mmap", full)
    with pytest.raises(MemoryError, match="no memory for a tensor of 2,097,152 bytes"):
        read_tensors(tmp_path / "file", most=2**30)
