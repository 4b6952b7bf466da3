"""Errors of libraries become correct sentences: system errors are not called damage, and nothing is cut off."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_cache import write_small

from pipeline.backbones import weights
from pipeline.cache import array_readers as array_files
from pipeline.cache import open_cache, verify_cache
from pipeline.cache import reader as cache
from pipeline.cache import verify as cache_check
from pipeline.cache.format import NamingDamage
from pipeline.io import atomic as locks
from pipeline.io import first_sentence, remedy, system_error

LOCKED = "unable to lock file, errno = {}, error message = '{}'"


@pytest.fixture
def path(tmp_path):
    return write_small(tmp_path / "c.h5")


def said_of(error, path="c.h5"):
    with pytest.raises(OSError) as caught, NamingDamage(Path(path)):  # noqa: PT011
        raise error
    return str(caught.value)


def test_a_cache_that_another_process_writes_is_called_locked(path):
    hold = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        for read in (open_cache, verify_cache):
            with pytest.raises(
                OSError, match=r"^cache c\.h5 is locked by another process \(errno 11\); expected"
            ) as caught:
                read(path)
            assert "HDF5_USE_FILE_LOCKING=FALSE" in str(caught.value)
            assert "damaged" not in str(caught.value)
    assert open_cache(path).n_rows("train") == 20


def test_a_cache_that_is_marked_as_being_written_is_called_open():
    said = said_of(OSError("unable to open file (file is already open for write or SWMR write)"))
    assert said.startswith("cache c.h5 is open for writing, or its writer was killed; expected")
    assert "h5clear" in said


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_every_number_of_a_lock_that_is_taken_is_called_locked(number):
    said = said_of(OSError(number, LOCKED.format(number, os.strerror(number))))
    assert said.startswith(f"cache c.h5 is locked by another process (errno {number}); expected")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(number):
    said = said_of(OSError(number, LOCKED.format(number, os.strerror(number))))
    assert said.startswith(f"cache c.h5 is on a file system without locks (errno {number}); expected")
    assert "HDF5_USE_FILE_LOCKING=FALSE" in said


@pytest.mark.parametrize(
    "name", ["EIO", "EMFILE", "ENFILE", "EACCES", "EPERM", "ENOSPC", "ESTALE", "ENOMEM", "ETIMEDOUT"]
)
@pytest.mark.parametrize("kind", [OSError, RuntimeError, KeyError])
def test_no_number_of_the_system_is_called_damage(name, kind):
    number = getattr(errno, name)
    text = f"Can't read data (file read failed: time = now, errno = {number}, error message = 'x')"
    said = said_of(OSError(number, text) if kind is OSError else kind(text))
    assert said == f"[Errno {number}] cache c.h5 cannot be read: {os.strerror(number)}"


@pytest.mark.parametrize("text", ["truncated file: eof = 96", "errno = 22, error message = 'Invalid argument'"])
def test_what_a_broken_file_gives_is_called_damage(text):
    assert "c.h5 is damaged or incomplete" in said_of(OSError(text))


def test_a_cut_cache_is_called_damaged_and_a_failing_disk_is_not(path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Unable to synchronously open file (file read failed: errno = 5)")

    with monkeypatch.context() as patched:
        patched.setattr(cache.h5py, "File", fail)
        with pytest.raises(OSError, match="cannot be read: Input/output error"):
            open_cache(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"is damaged or incomplete .* to rebuild it"):
        open_cache(path)


def test_a_child_hands_the_number_on(path, monkeypatch):
    code = cache_check._CODE.replace("check_everything(sys.argv[1])", "open('/').read()")
    monkeypatch.setattr(cache_check, "_CODE", code)
    with pytest.raises(OSError, match="Is a directory") as caught:
        verify_cache(path)
    assert caught.value.errno == errno.EISDIR


@pytest.mark.parametrize("code", ["import os; os.kill(os.getpid(), 9)", "raise SystemExit('no room')"])
def test_a_check_that_was_ended_from_outside_says_nothing_about_the_cache(path, monkeypatch, code):
    monkeypatch.setattr(cache_check, "_CODE", code)
    with pytest.raises(RuntimeError, match=r"^cache c\.h5 could not be checked.*; expected.*try again\.$"):
        verify_cache(path)


@pytest.mark.parametrize("read", [weights.read_weights, lambda path: array_files.read_array(str(path), "embeddings")])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_files_of_torch_that_cannot_be_read_are_not_called_damaged(tmp_path, monkeypatch, read, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.pt").write_bytes(b"x")
    monkeypatch.setattr("torch.load", fail)
    with pytest.raises(OSError, match=rf"^\[Errno {number}\]"):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_scratch_folder_without_locks_is_not_called_busy(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        locks.lock_folder(tmp_path, "counting")
    assert "DKVB_SCRATCH" in remedy(caught.value.errno)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("one\ntwo three. Four", "one two three"),
        ("\x1b[1mbold\x1b[0m \x1b]8;;http://a\x07link\x1b]8;;\x07 end", "bold link end"),
        ("no file w.pth in 3.5 s", "no file w.pth in 3.5 s"),
        ("failed: a, e.g. b. Try", "failed: a, e.g. b"),
        ("", "ValueError"),
    ],
)
def test_a_first_sentence_is_whole_and_plain(text, sentence):
    assert first_sentence(ValueError(text)) == sentence


def test_a_very_long_sentence_ends_at_a_word():
    short = first_sentence(ValueError("word " * 1000))
    assert len(short) < 310
    assert short.endswith("word …")


def test_a_number_in_another_librarys_text_is_found():
    assert system_error(RuntimeError("[errno 5] Input/output error")) == errno.EIO
    assert system_error(ValueError("bad magic number")) is None
