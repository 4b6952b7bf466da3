"""Text files as various editors write them: byte order marks, UTF-16, line ends, empty lines."""

import codecs
import json

import pytest

from pipeline.io import read_names, read_text
from pipeline.report import FOLDERS, read_search

NAMES = ("ant", "bee", "käfer")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\n  \n"])
def test_names_are_the_same_however_an_editor_writes_them(tmp_path, encoding, newline, end):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    text = ("\n".join(NAMES) + end).replace("\n", newline)
    (tmp_path / "c.txt").write_bytes(mark + text.encode(encoding))
    assert read_names(tmp_path / "c.txt", "class name") == NAMES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("käfer".encode("latin-1"), r"c\.txt is not text in UTF-8 \(byte 1 is 0xe4\); expected UTF-8\. Save it as"),
        (codecs.BOM_UTF16_LE + b"a", r"c\.txt is not text in UTF-16 \(byte .*; expected UTF-8\. Save"),
        (b"", r"c\.txt contains no name; expected a class name on each line\. Add"),
        (codecs.BOM_UTF8 + b"\n\n", r"c\.txt contains no name; expected"),
        (b"ant\n\nbee\n", r"line 2 of .*c\.txt is empty; expected a class name on each line\. Add it, or"),
        (b"ant\nbee\nant\n", r"c\.txt contains the class name 'ant' twice; expected distinct names\. Remove"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path, content, said):
    (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_names(tmp_path / "c.txt", "class name")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_measured_files_that_a_spreadsheet_saved_are_read(tmp_path, encoding):
    (tmp_path / "a.json").write_text(json.dumps({"best_params": {"n_keys": 4}, "best_score": 0.5}), encoding=encoding)
    (tmp_path / "a.csv").write_text("rank,mean_score\n1,0.5\n\n", encoding=encoding)
    found = read_search("a", dict.fromkeys(FOLDERS, tmp_path))
    assert found.best == {"best_params": {"n_keys": 4}, "best_score": 0.5}
    assert found.rows == [{"rank": "1", "mean_score": "0.5"}]


def test_a_mark_inside_the_text_stays(tmp_path):
    (tmp_path / "a.txt").write_text("a\ufeffb", encoding="utf-8")
    assert read_text(tmp_path / "a.txt") == "a\ufeffb"
