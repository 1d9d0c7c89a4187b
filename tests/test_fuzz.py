"""Whatever a file holds, its reader gives a result or refuses it in one line: it fails in no other way, and leaves nothing."""

from __future__ import annotations

import io
import resource
import signal
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqapp.errors import UsageError
from tests.readers import READERS, Reader

SECONDS = 5  # of the processor, for one input: a machine that is busy with something else is not the reader's fault
MEMORY = 1 << 30  # bytes that a reader may take more than before
INTERESTING = [
    b"", b"\0", b"\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\n", b"\r", b"\t", b",", b":", b";", b'"',
    b"'", b"\\", b"%s%n", b"{}", b"[", b"]", b"{", b"<", b">", b"&a;", b"-", b"-1", b"0", b"1e999", b"nan", b"NaN",
    b"Infinity", b"1e-320", b"999999999999999999999", b"9" * 5000, b"1" + b"0" * 12, b"null", b"true", b"3.5",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"\\ud800", "\u2028\u0301\U0001f600".encode(), b"../../etc/passwd",
    b"/etc/passwd", b"[" * 3000, b"- " * 500, b"> " * 300, b"(" * 500, b"&a &a *a",
    b"!!python/object/apply:os.system [id]", b"<<: *a", b"@data", b"date", b"series", b"1/0", b"K:", b"V:2", b"~" * 50,
    b"MTrk", b"\xff\x51\x03", b"\xff\x7f\xff\xff\xff\x7f", b"PK\x05\x06", b"\x93NUMPY\x02\0",
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-32", "latin-1", "cp037", "utf-7", "utf-8-sig"]
place = st.floats(0, 1, exclude_max=True)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("byte"), place, st.integers(0, 255)),
        st.tuples(st.just("insert"), place, st.sampled_from(INTERESTING)),
        st.tuples(st.just("number"), place, st.sampled_from(INTERESTING)),
        st.tuples(st.just("cut"), place, place),
        st.tuples(st.just("again"), place, place),
        st.tuples(st.just("truncate"), place, st.none()),
        st.tuples(st.just("encode"), place, st.sampled_from(ENCODINGS)),
    ),
    min_size=1,
    max_size=4,
)


def changed(content: bytes, steps: list[tuple[str, float, Any]]) -> bytes:
    """A content after some damage, each at a place that is given as a part of the whole."""
    for kind, where, what in steps:
        at = int(where * len(content))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ 1 << what]) + content[at + 1 :]
        elif kind == "byte":
            content = content[:at] + bytes([what]) + content[at + 1 :]
        elif kind == "insert":
            content = content[:at] + what + content[at:]
        elif kind == "number":  # the next number becomes another one
            begin = next((i for i in range(at, len(content)) if content[i : i + 1].isdigit()), at)
            end = next((i for i in range(begin, len(content)) if not content[i : i + 1].isdigit()), len(content))
            content = content[:begin] + what + content[end:]
        elif kind == "cut":
            content = content[:at] + content[int(what * len(content)) :] if what > where else content[:at]
        elif kind == "again":
            end = int(what * len(content))
            content = content[:end] + content[at:]
        elif kind == "truncate":
            content = content[:at]
        elif kind == "encode":
            with suppress(UnicodeError):
                content = content.decode("utf-8").encode(what, "replace")
    return content


@st.composite
def damaged(draw: Any, sample: bytes) -> bytes:
    """The sample with damage, sometimes in a member of it, where it is an archive; or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return bytes(draw(st.binary(max_size=200)))
    steps = draw(changes)
    if not sample.startswith(b"PK") or draw(st.integers(0, 3)) == 0:
        return changed(sample, steps)
    with zipfile.ZipFile(io.BytesIO(sample)) as old, zipfile.ZipFile(new := io.BytesIO(), "w") as file:
        names = old.namelist()
        one = draw(st.sampled_from(names))
        for name in names:
            content = old.read(name)
            file.writestr(name, changed(content, steps) if name == one else content)
    return new.getvalue()


class TooLong(BaseException):
    """Which no reader catches."""


@contextmanager
def limited() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TooLong(f"more than {SECONDS} s of the processor")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def holds(reader: Reader, content: bytes, folder: Path) -> bool:
    """Whether a reader takes a content; asserts that it refuses it in one line otherwise, and leaves nothing behind."""
    path = folder / reader.file
    path.write_bytes(content)
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a package mends is none of the user's
            reader.read(path)
        taken = True
    except UsageError as error:
        words = str(error)
        assert "\n" not in words and words.isprintable() and 10 < len(words) < 3000, words
        taken = False
    left = sorted(file.name for file in folder.rglob("*"))
    assert left == sorted([reader.file, "temporary"]), left
    return taken


def fuzz(reader: Reader, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "temporary").mkdir()
    sample = reader.sample()
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before, seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(damaged(sample))
    def test(content: bytes) -> None:
        nonlocal seen
        seen += 1
        holds(reader, content, folder)

    test()
    assert seen >= count * 0.9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY


each = pytest.mark.parametrize("reader", READERS, ids=[reader.name.replace(" ", "-") for reader in READERS])


@each
def test_samples_are_taken(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / reader.file).write_bytes(reader.sample())
    if reader.name in ("checksums", "manifest"):  # which name files that are not there
        with pytest.raises(UsageError):
            reader.read(tmp_path / reader.file)
    else:
        reader.read(tmp_path / reader.file)


@each
def test_damage_is_refused_in_one_line(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(reader, 300, tmp_path, monkeypatch)


@pytest.mark.nightly
@each
def test_much_damage_is_refused_in_one_line(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(reader, 10_000, tmp_path, monkeypatch)
