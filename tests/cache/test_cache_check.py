"""The check in another process: a file that makes HDF5 hang or crash ends that process, not the caller."""

from pathlib import Path

import pytest

from pipeline.cache import verify as cache_check
from pipeline.cache.verify import check_in_child

V1 = Path(__file__).parents[1] / "data" / "cache_v1.h5"


def test_a_whole_file_passes_with_what_was_found():
    facts = check_in_child(V1)
    assert len(facts) == 3
    assert facts[1].startswith("test: 7 rows")


def test_the_error_of_a_damaged_file_comes_back_as_it_was(tmp_path):
    (tmp_path / "cut.h5").write_bytes(V1.read_bytes()[:3000])
    with pytest.raises(OSError, match=r"^cache cut\.h5 is damaged or incomplete .*; expected .*\. Run"):
        check_in_child(tmp_path / "cut.h5")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(OSError, match=r"there is no cache absent\.h5.*; expected .* Run"):
        check_in_child(tmp_path / "absent.h5")


def test_the_kind_of_error_comes_back(monkeypatch):
    monkeypatch.setattr(cache_check, "_CODE", """print('{"error": "a; b. c", "kind": "ValueError"}')""")
    with pytest.raises(ValueError, match=r"^a; b\. c$"):
        check_in_child(V1)


def test_a_check_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr(cache_check, "_CODE", "while True: pass")
    monkeypatch.setattr(cache_check, "SECONDS", 0.3)
    with pytest.raises(OSError, match=r"cache_v1\.h5 is damaged \(reading it did not finish within .*; expected .*Run"):
        check_in_child(V1)


def test_a_check_that_crashes_is_an_error(monkeypatch):
    monkeypatch.setattr(cache_check, "_CODE", "import os; os.abort()")
    with pytest.raises(OSError, match=r"reading it ended with code -6:.*; expected an unchanged file\. Run"):
        check_in_child(V1)


def test_time_grows_with_the_file(monkeypatch, tmp_path):
    limits = []

    def note(*_, timeout, **__):
        limits.append(timeout)
        raise cache_check.subprocess.TimeoutExpired("", timeout)

    monkeypatch.setattr(cache_check.subprocess, "run", note)
    for n in (0, 4_000_000):
        (tmp_path / "file.h5").write_bytes(b"0" * n)
        with pytest.raises(OSError, match="did not finish"):
            check_in_child(tmp_path / "file.h5")
    assert limits == [60, 60.2]
