"""The documentation builds with warnings as errors, runs its gallery, and loads nothing from the network."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.backbones.registry import BACKBONES
from pipeline.config import BASELINES
from pipeline.config.datasets import DATASET_KINDS

ROOT = Path(__file__).parents[2]
GALLERY = sorted((ROOT / "examples" / "gallery").glob("plot_*.py"))


def test_the_gallery_has_its_scripts_each_with_a_title_and_a_figure():
    assert len(GALLERY) >= 8
    for path in GALLERY:
        text = path.read_text(encoding="utf-8")
        assert re.match(r'"""\n.+\n=+\n', text), path.name
        assert "plt.show()" in text


def test_every_page_of_the_guide_is_reached_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    entries = re.findall(r"^guide/\w+$", index, flags=re.MULTILINE)
    assert sorted(entries) == sorted(f"guide/{path.stem}" for path in (ROOT / "docs" / "guide").glob("*.md"))


@pytest.mark.slow
def test_make_docs_builds_without_a_warning_or_the_network(tmp_path):
    pytest.importorskip("sphinx_gallery")
    for name in (
        "docs",
        "examples",
        "dkvb_estimator",
        "Makefile",
        "pyproject.toml",
    ):  # what the build writes stays in this folder
        source = ROOT / name
        ignore = shutil.ignore_patterns("_build", "api", "gallery" if name == "docs" else "__pycache__")
        shutil.copytree(source, tmp_path / name, ignore=ignore) if source.is_dir() else shutil.copy(source, tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1",
        "https_proxy": "http://127.0.0.1:9",  # every access to the network fails
        "http_proxy": "http://127.0.0.1:9",
    }
    command = ["make", "docs", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    built = tmp_path / "docs" / "_build" / "html"
    for path in GALLERY:
        assert list((built / "_images").glob(f"sphx_glr_{path.stem}_001.png")), path.stem
    loaded = r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?:[^"]+)"'
    pages = list(built.rglob("*.html"))
    assert len(pages) > 40
    assert {link for path in pages for link in re.findall(loaded, path.read_text(encoding="utf-8"))} == set()


@pytest.mark.parametrize(
    ("page", "names"),
    [("guide/backbones", BACKBONES), ("guide/pipeline", DATASET_KINDS), ("comparing_runs", BASELINES)],
    ids=["backbones", "datasets", "baselines"],
)
def test_a_page_tells_every_name_that_settings_may_hold(page, names):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert [name for name in names if not re.search(f"`{name}`|kind: {name}$", text, flags=re.MULTILINE)] == []


@pytest.mark.parametrize(
    "name", ["dkvb_estimator", "dkvb_estimator.baselines", "dkvb_estimator.metrics", "dkvb_estimator.plotting"]
)
def test_the_reference_lists_every_public_name(name):
    module = importlib.import_module(name)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"currentmodule:: ([\w.]+)\n(.*?)(?=\.\. currentmodule|\Z)", page, flags=re.DOTALL))
    listed = set(re.findall(r"^   (\w+)$", sections[name], flags=re.MULTILINE))
    made_here = {each for each, value in vars(module).items() if getattr(value, "__module__", "") == name}
    public = set(getattr(module, "__all__", made_here)) | made_here
    assert listed == {each for each in public if not each.startswith("_")}
