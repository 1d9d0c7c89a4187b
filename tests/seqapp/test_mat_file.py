"""Files of MATLAB: the same as SciPy reads, where that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from seqapp import mat_file


def cells(*matrices: object) -> np.ndarray:
    made = np.empty((1, len(matrices)), object)
    for i, matrix in enumerate(matrices):
        made[0, i] = matrix
    return made


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int16, np.int64])
def test_matrices_are_those_that_scipy_reads(compressed: bool, dtype: type, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some = cells(*(rng.integers(0, 2, (rows, 88)).astype(dtype) for rows in (1, 5, 40)))
    savemat(tmp_path / "a.mat", {"traindata": some, "other": np.eye(2), "words": "a text"}, do_compression=compressed)
    found = mat_file.read(tmp_path / "a.mat", ["traindata", "other"])
    assert list(found) == ["traindata"]
    for own, theirs in zip(found["traindata"], loadmat(tmp_path / "a.mat")["traindata"][0], strict=True):
        assert own is not None
        np.testing.assert_array_equal(own, theirs)


def test_what_is_no_matrix_of_real_numbers_is_none(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"a": cells("text", np.eye(2) * 1j, {"b": 1}, cells(np.eye(2)), np.eye(2))})
    *others, last = mat_file.read(tmp_path / "a.mat", ["a"])["a"]
    assert others == [None] * 4
    np.testing.assert_array_equal(last, np.eye(2))


@pytest.mark.parametrize("compressed", [True, False])
def test_no_file_that_is_cut_off_is_read_as_a_whole_one(compressed: bool, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"a": cells(np.eye(3))}, do_compression=compressed)
    content = (tmp_path / "a.mat").read_bytes()
    for size in range(129, len(content)):
        (tmp_path / "a.mat").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"."):
            mat_file.read(tmp_path / "a.mat", ["a"])


@pytest.mark.parametrize("version", ["4", "other"])
def test_other_formats_are_refused(version: str, tmp_path: Path) -> None:
    if version == "4":
        savemat(tmp_path / "a.mat", {"a": np.eye(30)}, format="4")
    else:
        (tmp_path / "a.mat").write_bytes(b"\x89HDF" * 100)
    with pytest.raises(ValueError, match="version 5"):
        mat_file.read(tmp_path / "a.mat", ["a"])
