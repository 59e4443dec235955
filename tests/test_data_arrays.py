"""Series from .npy and .npz files."""

import numpy as np
import pytest
import torch

from blocklocal import build_model
from blocklocal._common.errors import InputError
from blocklocal.data.arrays import is_arrays, load_arrays
from blocklocal.data.samples import SampleBatches


def series(count: int = 30, channels: int = 2, steps: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of different mean; the first number of series i is i."""
    y = np.arange(count) % 2
    x = np.random.default_rng(0).normal(size=(count, channels, steps)) + 3 * y[:, None, None]
    x[:, 0, 0] = np.arange(count)
    return x, y


def test_one_file_and_several_files_are_the_same_set(tmp_path):
    x, y = series()
    np.savez(tmp_path / "set.npz", x=x, y=y)
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "set" / "x.npy", x)
    np.save(tmp_path / "set" / "y.npy", y)
    sets = [load_arrays(tmp_path / name) for name in ("set.npz", "set", "set/x.npy")]
    assert all(is_arrays(str(tmp_path / name)) for name in ("set.npz", "set", "set/x.npy"))
    assert all(each.fingerprint() == sets[0].fingerprint() for each in sets)
    assert (sets[0].shape, sets[0].classes) == ((2, 16), ("0", "1"))
    assert len(sets[0].test) == 6


def test_splits_of_their_own_are_taken_and_labels_may_be_texts(tmp_path):
    x, y = series()
    words = np.array(["low", "high"])[y]
    np.savez(tmp_path / "set.npz", x_train=x[:20], y_train=words[:20], x_test=x[20:], y_test=words[20:])
    data = load_arrays(tmp_path / "set.npz", validation=0)
    assert data.test.x[:, 0, 0].tolist() == list(range(20, 30))
    assert data.classes == ("high", "low")


def test_batches_are_standardised_per_channel_by_the_training_part(tmp_path):
    x, y = series(200)
    np.savez(tmp_path / "set.npz", x=x, y=y)
    data = load_arrays(tmp_path / "set.npz", validation=0)
    batches = SampleBatches(data.train, batch_size=500, mean=data.mean, std=data.std)
    ((seen, _),) = batches
    torch.testing.assert_close(seen.mean((0, 2)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.square().mean((0, 2)), torch.ones(2), atol=1e-4, rtol=0)


def test_one_channel_may_be_left_out_of_the_shape(tmp_path):
    x, y = series(channels=1)
    np.savez(tmp_path / "set.npz", x=x[:, 0], y=y)
    assert load_arrays(tmp_path / "set.npz").shape == (1, 16)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": series()[0], "z": series()[1]}, r"unknown array 'y'"),
        ({"y": series()[1]}, r"unknown array 'x'"),
        ({"x": series()[0][0, 0], "y": series()[1]}, r"float64 \[16\]\. Expected numbers \[N, C, T\]"),
        ({"x": series()[0], "y": series()[1][:5]}, r"labels are int64 \[5\]"),
        ({"x": series()[0], "y": series()[1][:5] + 0.5}, r"values are float64 \[5\]"),
        ({"x": series()[0], "y": series()[1] + np.nan}, r"values are NaN or infinite in places"),
        ({"x": series()[0] * np.nan, "y": series()[1]}, "series 0 holds NaN"),
        ({"x": series()[0], "y": series()[1] * 0}, "there is nothing to learn"),
        ({"x_train": series()[0], "y_train": series()[1]}, "a training and a test part are both needed"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_arrays(tmp_path / "set.npz")


def test_a_file_that_is_damaged_or_holds_objects_is_refused(tmp_path):
    (tmp_path / "set.npz").write_bytes(b"PK\3\4 nothing")
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name in ("set.npz", "x.npy"):
        with pytest.raises(InputError, match="cannot read the arrays"):
            load_arrays(tmp_path / name)


def test_a_convolutional_network_reads_series_of_any_length():
    for steps in (3, 50):
        model = build_model("conv1d", classes=3, input_shape=(2, steps), width=4).eval()
        assert model(torch.randn(5, 2, steps)).shape == (5, 3)
    with pytest.raises(InputError, match="kernel must be odd"):
        build_model("conv1d", classes=3, input_shape=(2, 8), kernel=4)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_parquet_file_with_a_column_of_lists_is_the_same_set(tmp_path, channels):
    pa = pytest.importorskip("pyarrow")
    x, y = series(channels=channels)
    x = x.astype(np.float32)
    np.savez(tmp_path / "set.npz", x=x, y=y)
    rows = [
        {"sound": (each[0] if channels == 1 else each).tolist(), "y": int(label)}
        for each, label in zip(x, y, strict=True)
    ]
    file = tmp_path / "set.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), file)
    assert is_arrays(str(file))
    assert load_arrays(file).fingerprint() == load_arrays(tmp_path / "set.npz").fingerprint()


def test_series_of_different_lengths_are_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    file = tmp_path / "set.parquet"
    rows = [{"x": [1.0] * (i + 1), "y": i % 2} for i in range(4)]
    pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(InputError, match="not of one length"):
        load_arrays(file)


@pytest.mark.parametrize("several", [False, True])
def test_fractions_as_labels_are_values_and_train_as_such(tmp_path, monkeypatch, capsys, several):
    import json

    from blocklocal.cli import main

    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(1).normal(size=(60, 2, 16)).astype(np.float32)
    y = 100 + 10 * x.mean((1, 2))
    np.savez(tmp_path / "set.npz", x=x, y=np.stack([y, -y], 1) if several else y)
    data = load_arrays(tmp_path / "set.npz", validation=0)
    assert data.answers.kind == "values"
    assert data.classes == (("y1", "y2") if several else ("y",))
    assert data.answers.mean[0] == pytest.approx(data.train.labels[:, 0].mean().item())
    size = ["--epochs", "2", "--blocks", "2", "--width", "4", "--batch-size", "16", "--no-tensorboard", "--quiet"]
    assert main(["train", "--data", "set.npz", *size, "--output", "run"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_rmse"] > 0
    assert len(summary["block_test_rmse"]) == 2
    capsys.readouterr()
    assert main(["predict", "run", "set.npz"]) == 0
    assert 90 < float(capsys.readouterr().out.splitlines()[1].split(",")[1]) < 110


def test_a_few_whole_floats_are_classes_as_in_a_table(tmp_path):
    x, y = series()
    np.savez(tmp_path / "set.npz", x=x, y=y.astype(np.float64))
    data = load_arrays(tmp_path / "set.npz")
    assert (data.answers.kind, data.classes) == ("classes", ("0", "1"))
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(30.0))
    assert load_arrays(tmp_path / "set.npz").answers.kind == "values"
