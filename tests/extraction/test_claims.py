"""Claims: one process at a time computes a block, and no process waits for one that has ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.extraction import Claims

ROOT = Path(__file__).resolve().parents[2]


def helper(tmp_path):
    return Claims(tmp_path, "abc", helper=True)


def written(tmp_path):
    (tmp_path / "a b.rows").write_text("")
    return tmp_path / "a b.rows"


def test_a_second_owner_is_refused_until_the_first_ends(tmp_path, elsewhere):
    program = f"""
from pipeline.extraction import Claims
try:
    with Claims({str(tmp_path)!r}, "abc"):
        print("mine")
except RuntimeError as error:
    print(error)
"""
    with Claims(tmp_path, "abc"):
        refused = elsewhere(program)
        assert refused.startswith("another process is extracting the same embeddings")
        assert refused.endswith("expected one at a time. Wait until it finishes, then start again.\n")
    assert elsewhere(program) == "mine\n"


def test_a_block_is_claimed_by_one_process_at_a_time(tmp_path):
    with Claims(tmp_path, "abc") as owner, helper(tmp_path) as other:
        assert owner.claim("0")
        assert not other.claim("0")
        assert other.claim("1")
        assert not owner.claim("1")


def test_a_finished_block_cannot_be_claimed_until_its_file_is_gone(tmp_path):
    with Claims(tmp_path, "abc") as owner, helper(tmp_path) as other:
        assert owner.claim("0")
        path = written(tmp_path)
        owner.finish("0", path)
        assert not other.claim("0")
        assert not owner.claim("0", wait=True)
        path.unlink()
        assert other.claim("0")


def test_a_block_in_several_files_is_finished_while_all_of_them_are_there(tmp_path):
    with Claims(tmp_path, "abc") as owner, helper(tmp_path) as other:
        paths = [tmp_path / "a layer.rows", tmp_path / "another.rows"]
        for path in paths:
            path.write_text("")
        assert owner.claim("0")
        owner.finish("0", *paths)
        assert not other.claim("0")
        paths[1].unlink()
        assert other.claim("0")


def test_a_claim_tells_which_process_that_was_and_ends_with_it(tmp_path):
    code = f"""
import os
from pathlib import Path
from pipeline.extraction import Claims
with Claims({str(tmp_path)!r}, "abc", helper=True) as claims:
    assert claims.claim("1")
    claims.finish("1", Path({str(written(tmp_path))!r}))
    assert claims.claim("2")
    print(os.getpid(), flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    with Claims(tmp_path, "abc") as owner:
        assert owner.process_of("1") == owner.process_of("2") == int(done.stdout)
        assert not owner.claim("1")
        assert owner.claim("2", wait=True)


def test_clearing_deletes_the_claims_of_this_extraction_only(tmp_path):
    with Claims(tmp_path, "abc") as owner, Claims(tmp_path, "abd") as other, helper(tmp_path) as late:
        assert owner.claim("0")
        assert other.claim("0")
        owner.clear()
        assert not owner.folder.exists()
        assert other.process_of("0")
        assert not late.claim("1")  # a helper that starts late
        owner.clear()


def test_a_helper_whose_parent_has_ended_claims_nothing(tmp_path):
    with Claims(tmp_path, "abc", helper=True, parent=1) as orphan:
        assert not orphan.claim("0")


@pytest.mark.parametrize("fails", [True, False])
def test_claims_end_with_whoever_holds_them(tmp_path, fails):
    try:
        with Claims(tmp_path, "abc") as owner:
            assert owner.claim("0")
            if fails:
                raise OSError("full")
    except OSError:
        pass
    with helper(tmp_path) as other:
        assert other.claim("0")
