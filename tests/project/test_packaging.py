"""Installation: the source archive builds the wheel, and the wheel works without the checkout or a compiler."""

import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dkvb_estimator import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command, cwd, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source archive, and the wheel that was built from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def needed(lines, extras=frozenset({""})):
    """Return the names of the installed distributions that some requirements need, directly or not."""
    found = {}
    todo = [(Requirement(line), extras) for line in lines]
    while todo:
        requirement, asked = todo.pop()
        key = requirement.name, frozenset(requirement.extras)
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in asked)
        if key in found or not wanted:
            continue
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[key] = distribution
        todo += [(Requirement(line), key[1] | {""}) for line in distribution.requires or []]
    return found.values()


def fresh_environment(folder, archive, requirements):
    """Make a virtual environment with one of our archives and links to what some requirements need, nothing else."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    for distribution in needed(requirements):
        for name in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(distribution.locate_file(name))
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "--python", python, "install")
    run(*pip, *options, archive, cwd=folder, CC="/bin/false", CXX="/bin/false")
    return python


def ten_lines():
    """Return the README's lines from embeddings to a saved classifier."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if "FrozenEstimator" in block
    )
    return code


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout_and_with_its_dependencies_alone(archives, tmp_path):
    python = fresh_environment(tmp_path / "new", archives[1], PROJECT["dependencies"])
    program = ten_lines() + "import dkvb_estimator\nprint(dkvb_estimator.__file__, dkvb_estimator.__version__)\n"
    printed = run(python, "-W", "error", "-c", program, cwd=tmp_path).splitlines()
    assert float(printed[0]) > 0.9
    assert str(tmp_path) in printed[-1]
    assert printed[-1].endswith(__version__)
    assert "loaded again" in run(python, "-W", "error", ROOT / "examples/quickstart.py", cwd=tmp_path)
    absent = run(
        python, "-c", "import importlib.util as u; print(u.find_spec('h5py'), u.find_spec('pipeline'))", cwd=tmp_path
    )
    assert absent.split() == ["None", "None"]


@pytest.mark.slow
def test_the_source_archive_installs_without_a_compiler_and_predicts_the_same(archives, tmp_path):
    program = (
        "from sklearn.datasets import load_iris\nfrom dkvb_estimator import DKVBClassifier, KeyEncoder\n"
        "from dkvb_estimator._kernel import native\n"
        "X, y = load_iris(return_X_y=True)\n"
        "model = DKVBClassifier(KeyEncoder(8, 16, 3, random_state=0)).fit(X, y)\n"
        "print(native.KERNEL is None, model.predict(X).tolist())\n"
    )
    answers = []
    for archive in archives:
        python = fresh_environment(tmp_path / archive.suffix, archive, [*PROJECT["dependencies"], "setuptools"])
        answers.append(run(python, "-c", program, cwd=tmp_path).partition(" "))
    assert answers[0][0] == "True"
    assert answers[0][2] == answers[1][2]


@pytest.mark.slow
def test_archives_hold_what_they_should_and_no_more(archives):
    with tarfile.open(archives[0]) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "setup.py",
        "dkvb_estimator/_kernel/nearest.cpp",
        "dkvb_estimator/_kernel/vectors.h",
        "LICENSE",
        "NOTICE",
        "CITATION.cff",
        "dvc.yaml",
        "docs/index.md",
    }
    assert needed <= source
    assert not [name for name in source if name.endswith((".so", ".pyc")) or "_build" in name]
    with zipfile.ZipFile(archives[1]) as archive:
        wheel = archive.namelist()
    assert {name.partition("/")[0] for name in wheel} == {
        "dkvb_estimator",
        f"dkvb_estimator-{__version__}.dist-info",
    }
    assert "dkvb_estimator/py.typed" in wheel
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dkvb_estimator").rglob("*.py")}
    assert modules <= set(wheel)
    assert modules <= source
    assert not [name for name in wheel if name.endswith(".cpp")]


def test_every_folder_of_modules_is_a_package_of_the_wheel():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "dkvb_estimator").rglob("*.py")}
    assert sorted(named) == sorted(".".join(folder.parts) for folder in folders)


def metadata(text):
    return email.message_from_string(text)


@pytest.mark.slow
def test_the_wheel_offers_extras_of_what_it_holds_alone(archives):
    with zipfile.ZipFile(archives[1]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        wheel = metadata(archive.read(name).decode())
    assert wheel.get_all("Provides-Extra") == ["dask"]
    needed = [Requirement(line) for line in wheel.get_all("Requires-Dist")]
    assert {str(line.marker) for line in needed if line.marker} == {'extra == "dask"'}
    assert len([line for line in needed if not line.marker]) == len(PROJECT["dependencies"])
    assert "Discrete Key-Value Bottleneck" in wheel.get_payload()


@pytest.mark.slow
def test_an_installation_from_source_offers_every_extra(archives, tmp_path):
    """The requirements of ``pip install -e ".[pipeline]"`` in the unpacked source archive."""
    with tarfile.open(archives[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    asked = "from setuptools import build_meta as b; b.{}('made')"
    for hook in ("prepare_metadata_for_build_editable", "prepare_metadata_for_build_wheel"):
        (source / "made").mkdir()
        run(sys.executable, "-c", asked.format(hook), cwd=source)
        (path,) = (source / "made").glob("*.dist-info/METADATA")
        offered = metadata(path.read_text(encoding="utf-8")).get_all("Provides-Extra")
        assert set(offered) == set(PROJECT["optional-dependencies"])
        shutil.rmtree(source / "made")


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", text, flags=re.MULTILINE).group(1) == __version__


def test_the_citation_is_a_valid_file_of_its_format():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    families = [author["family-names"] for author in paper["authors"]]
    assert families == ["Träuble", "Goyal", "Rahaman", "Mozer", "Kawaguchi", "Bengio", "Schölkopf"]
    assert paper["identifiers"][0]["value"] == "arXiv:2207.11240"


def test_importing_the_package_imports_no_optional_one(elsewhere):
    loaded = set(elsewhere("print(*imported)").split())
    assert {"dkvb_estimator", "torch", "sklearn"} <= loaded
    assert loaded.isdisjoint({"dask", "distributed", "h5py", "dvc", "matplotlib", "torchvision", "timm", "skops"})
