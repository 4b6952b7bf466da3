"""What a user installs: the source archive builds the wheel, and the wheel works without the checkout or a compiler."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from dkvb_estimator import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = {re.match(r"[\w-]+", line).group() for line in PROJECT["dependencies"]}
REFUSE = """
import sys
allowed = set({allowed!r})
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if path is None and name in {known!r} and name not in allowed:
            raise ImportError(f"{{name}} is no dependency of the estimator")
sys.meta_path.insert(0, Refuse())
"""


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


def fresh_environment(folder, *options):
    """Make a virtual environment that sees this one's packages, but not the checkout."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall")
    run(python, *install, *options, cwd=folder, CC="/bin/false", CXX="/bin/false")
    return python


def closure(names):
    """Names of the distributions that some need, themselves included."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            lines = importlib.metadata.requires(name) or []
            plain = [line for line in lines if "extra ==" not in line]
            todo += [match for line in plain if installed(match := re.match(r"[\w.-]+", line).group())]
    return found


def installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def five_lines():
    """Return the README's lines from a file of embeddings to a fitted classifier."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if "np.load" in block)
    return code


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout_and_without_other_packages(archives, tmp_path):
    python = fresh_environment(tmp_path / "new", archives[1])
    modules = importlib.metadata.packages_distributions()
    needed = closure(DEPENDENCIES)
    allowed = {name for name, owners in modules.items() if needed & {each.lower() for each in owners}}
    program = REFUSE.format(allowed=allowed | {"dkvb_estimator"}, known=set(modules))
    program += "from sklearn.datasets import load_digits\nimport numpy as np\nX, y = load_digits(return_X_y=True)\n"
    program += 'np.save("embeddings.npy", X)\nnp.save("labels.npy", y)\n' + five_lines()
    program += "import dkvb_estimator\nprint(dkvb_estimator.__file__, dkvb_estimator.__version__)\n"
    printed = run(python, "-W", "error", "-c", program, cwd=tmp_path).splitlines()
    assert str(tmp_path) in printed[-1]
    assert printed[-1].endswith(__version__)
    assert float(printed[0]) > 0.9


@pytest.mark.slow
def test_the_source_archive_installs_without_a_compiler_and_gives_the_same_predictions(archives, tmp_path):
    program = (
        "from sklearn.datasets import load_iris\nfrom dkvb_estimator import DKVBClassifier, _native\n"
        "X, y = load_iris(return_X_y=True)\n"
        "print(_native.KERNEL is None, DKVBClassifier(8, 16, 3, random_state=0).fit(X, y).predict(X).tolist())\n"
    )
    answers = []
    for name, archive in (("torch", archives[0]), ("kernel", archives[1])):
        python = fresh_environment(tmp_path / name, "--no-build-isolation", archive)
        answers.append(run(python, "-c", program, cwd=tmp_path).partition(" "))
    assert answers[0][0] == "True"
    assert answers[0][2] == answers[1][2]


@pytest.mark.slow
def test_archives_hold_what_they_should_and_no_more(archives):
    source = {name.partition("/")[2] for name in tarfile.open(archives[0]).getnames()}
    needed = {
        "setup.py",
        "dkvb_estimator/_nearest.cpp",
        "LICENSE",
        "NOTICE",
        "CITATION.cff",
        "dvc.yaml",
        "docs/index.md",
    }
    assert needed <= source
    assert not [name for name in source if name.endswith((".so", ".pyc")) or "_build" in name]
    wheel = zipfile.ZipFile(archives[1]).namelist()
    assert {name.partition("/")[0] for name in wheel} == {
        "dkvb_estimator",
        f"dkvb_estimator-{__version__}.dist-info",
    }
    assert "dkvb_estimator/py.typed" in wheel
    assert not [name for name in wheel if name.endswith(".cpp")]


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


def test_importing_the_package_imports_no_optional_one():
    program = "import sys, dkvb_estimator; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(run(sys.executable, "-c", program, cwd=ROOT).split())
    assert loaded.isdisjoint({"dask", "distributed", "h5py", "dvc", "matplotlib", "torchvision", "timm", "skops"})
