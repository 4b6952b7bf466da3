"""Findings of fuzzing stay fixed, inputs of its corpus are run again, and the kernel passes the sanitizers."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from fuzz import report, sanitize
from fuzz.readers import fuzz_cache, fuzz_model, patched, small_cache
from fuzz.targets import TARGETS, unpack


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_and_every_kept_input_holds_its_promise(target):
    run, seeds = TARGETS[target]
    inputs = [*seeds(), *unpack(target)]
    assert len(inputs) > 5
    for content in inputs:
        run(content)


def test_patches_change_and_cut_a_file():
    assert patched(b"abcdef", b"\x01\x00\x00Z") == b"aZcdef"
    assert patched(b"abcdef", b"\x01\x00\x00Z\x00\x00\x80") == b"aZc"


def test_a_target_sees_a_cache_that_is_believed_and_wrong(monkeypatch):
    fuzz_cache(b"\0" * 8)  # the intact cache is read first
    content = small_cache()
    place = content.index(b"t4") + 1
    monkeypatch.setattr("pipeline.cache.format.meta_sha256", lambda file: file.attrs["meta_sha256"].decode())
    with pytest.raises(AssertionError, match="and its content differs"):
        fuzz_cache(place.to_bytes(3, "little") + b"9")


def test_a_target_sees_a_model_that_is_refused_in_other_words(monkeypatch):
    def refuse(path):
        raise ValueError("no")

    monkeypatch.setattr("fuzz.readers.load_model", refuse)
    with pytest.raises(AssertionError, match="the message is not the expected one: no"):
        fuzz_model(b"\0" * 8)


def test_the_page_adds_up_what_was_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "CORPUS", tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/ab").write_bytes(b"")
    test = {"kind": "test", "group": "faults", "tried": "a flood", "outcomes": {"dry": 2}}
    found = {
        "kind": "fuzz",
        "target": "cache",
        "seconds": 9,
        "executions": 700,
        "stops": 1,
        "findings": [{"input": "ab"}],
    }
    build = {"kind": "sanitizer", "build": "x86-64", "problems": 9, "code": 0, "said": ""}
    wrong = {"kind": "test", "group": "bad input", "tried": "n=0", "outcomes": {"ValueError": 1}}
    unbroken = found | {"seconds": 5, "findings": []}
    others = [test | {"group": group} for group in report.TITLES if group != "faults"]
    text = report.attempts([test, test, *others, found, unbroken, build, wrong])
    assert "| a flood | 4 | 4 × dry |" in text
    assert "| cache | 1,400 | 2 | 1 | 5 | `ab` |" in text
    assert "| x86-64 | 9 | clean |" in text
    assert "1 wrong inputs" in text
    with pytest.raises(ValueError, match="the records have no test of 'attacks'; expected those of all commands"):
        report.attempts([record for record in (test, *others, found, build, wrong) if record.get("group") != "attacks"])


def test_what_was_tried_is_recorded_in_the_file_that_was_named_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DKVB_RELIABILITY", "records.jsonl")
    note = runpy.run_path(str(Path(__file__).parents[1] / "support/reliability.py"))["note"]
    monkeypatch.chdir(tmp_path / "elsewhere")
    note("faults", "a flood", ["dry", "wet", "dry"])
    expected = {"kind": "test", "group": "faults", "tried": "a flood", "outcomes": {"dry": 2, "wet": 1}}
    assert json.loads((tmp_path / "records.jsonl").read_text(encoding="utf-8")) == expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("level", sanitize.supported())
def test_the_kernel_is_clean_under_sanitizers(level):
    found = sanitize.sanitize(level, 1000, "g++")
    assert (found["code"], found["said"]) == (0, "1000 problems")
