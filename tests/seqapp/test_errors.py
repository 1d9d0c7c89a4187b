"""What a user is told, and the exit status."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seqapp import errors
from seqapp.errors import RunFailed, UsageError, need


def test_need_imports() -> None:
    assert need("os.path", "train") is sys.modules["os.path"]


def test_need_names_what_is_missing_and_what_brings_it() -> None:
    with pytest.raises(UsageError, match=r"^no_such_module is not installed: .*pip install 'seqapp\[onnx\]'"):
        need("no_such_module.part", "onnx")


def test_need_does_not_hide_what_a_module_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_another.py").write_text("import no_such_module\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        need("needs_another", "train")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (UsageError("no file: give one"), 2, "error: no file: give one\n"),
        (RunFailed("diverged"), 1, "error: diverged\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_exit_status(error: BaseException | None, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        if error:
            raise error

    assert errors.run(body) == status
    assert capsys.readouterr() == ("", said)


def test_other_errors_are_not_hidden() -> None:
    def body() -> None:
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError, match="a mistake of ours"):
        errors.run(body)
