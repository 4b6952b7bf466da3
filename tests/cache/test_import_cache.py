"""A cache made elsewhere is copied byte for byte, or not at all."""

import json

import pytest
import small_cache
import yaml

from pipeline import cli as console
from pipeline.cache import describe_cache
from pipeline.stages import import_cache as stage


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return small_cache.write_small(tmp_path_factory.mktemp("cache") / "a.h5").read_bytes()


@pytest.fixture
def project(tmp_path, content):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.h5").write_bytes(content)
    imports = {"mine": {"cache": str(tmp_path / "elsewhere/a.h5")}, "gone": {"cache": str(tmp_path / "gone.h5")}}
    tables = {"datasets": {}, "embeddings": {}, "imports": imports, "runs": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tables))
    return tmp_path


def run(folder, name="mine"):
    paths = {"--params": "params.yaml", "--output": "caches/mine.h5", "--card": "caches/mine.json"}
    argv = [name, *(part for option, path in paths.items() for part in (option, str(folder / path)))]
    return console.run(stage.main, stage.build_parser(), argv)


def test_the_cache_is_the_same_file_and_its_card_says_where_it_comes_from(project, capsys):
    assert run(project) == 0
    assert (project / "caches/mine.h5").read_bytes() == (project / "elsewhere/a.h5").read_bytes()
    card = json.loads((project / "caches/mine.json").read_text())
    sha256 = small_cache.sha256(project / "elsewhere/a.h5")
    assert card == json.loads(json.dumps(describe_cache(project / "elsewhere/a.h5"))) | {"file_sha256": sha256}
    assert sorted(path.name for path in (project / "caches").iterdir()) == ["mine.h5", "mine.json"]
    said = capsys.readouterr().err
    assert said.startswith("[import_cache mine] test: 7 rows of 8 features, finite, unchanged; train: 20 rows")


@pytest.mark.parametrize(
    ("name", "text"),
    [("mine", "cache a.h5 is damaged or incomplete ("), ("gone", "there is no cache gone.h5"), ("mime", "'mine'?")],
)
def test_a_cache_that_is_not_whole_is_one_sentence_and_leaves_the_old_one(project, capsys, name, text):
    content = bytearray((project / "elsewhere/a.h5").read_bytes())
    content[content.find(small_cache.embeddings("train").astype("<f2")[:2].tobytes())] ^= 1
    (project / "elsewhere/a.h5").write_bytes(content)
    (project / "caches").mkdir()
    (project / "caches/mine.h5").write_bytes(b"old")
    assert run(project, name) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert text in printed
    assert printed.count("\n") == 1
    assert (project / "caches/mine.h5").read_bytes() == b"old"
    assert not (project / "caches/mine.json").exists()
