"""dvc.yaml agrees with what the stages import, read and write."""

import ast
import copy
import json
import re
import shutil
import subprocess
from functools import cache

import pytest
import yaml
from small_project import ROOT, SMALL_METHOD, TABLES, call, copy_project, small_tables

from pipeline.config import BANNED_KEYS, Params, load_params
from pipeline.io import code

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
LOOKING = "manifest"
"""The stage that every `dvc repro` runs: it checks its dependencies itself."""
STANDS_FOR = {"caches": "cards", "forgotten/receipts": "forgotten/list.txt"}
"""Folders that stages read without depending on them, and the dependencies that represent them: a card contains its
cache's sha256, and every deletion changes the list of forgotten samples."""


def commands(name):
    """Return the commands of a stage, split into words."""
    command = STAGES[name]["cmd"]
    return [text.split() for text in (command if isinstance(command, list) else [command])]


def modules(name):
    """Return the modules that a stage runs."""
    for words in commands(name):
        assert words[:3] == ["python", "-m", "pipeline.stages"]
        yield from ("pipeline.stages.__main__", f"pipeline.stages.{words[3]}")


def plain(entries):
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outputs(name):
    return [path for group in ("outs", "metrics", "plots") for path in plain(STAGES[name].get(group, []))]


imported = cache(lambda path, tree, find=code._imported: list(find(path, tree)))
parse = cache(ast.parse)


@cache
def closure(name):
    """Return every file of this project that a stage reads as code; shared files are parsed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ast, "parse", parse)
        patch.setattr(code, "_imported", imported)
        return {path.relative_to(ROOT).as_posix() for module in modules(name) for path in code.closure(module)}


def below(path, folders):
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


CODE = [name for name in STAGES if name != LOOKING]


@pytest.mark.parametrize("name", CODE)
def test_code_that_a_stage_runs_is_among_its_deps(name):
    assert not {path for path in closure(name) if not below(path, STAGES[name]["deps"])} - {
        "pipeline/stages/__init__.py"
    }


@pytest.mark.parametrize("name", CODE)
def test_code_among_the_deps_is_code_that_the_stage_runs(name):
    code = [dep for dep in STAGES[name]["deps"] if dep.startswith(("pipeline/", "dkvb_estimator"))]
    assert not {dep for dep in code if not any(below(path, [dep]) for path in closure(name))}


@pytest.mark.parametrize("name", STAGES)
def test_no_dependency_stands_twice(name):
    deps = STAGES[name].get("deps", [])
    assert len(deps) == len(set(deps))


@pytest.mark.parametrize("name", STAGES)
def test_every_path_of_a_command_is_a_dep_or_an_output(name):
    known = [*STAGES[name].get("deps", []), *outputs(name), "params.yaml"]
    for words in commands(name):
        for path in [word for word in words if "/" in word]:
            folder = path.partition("/{")[0] if "{" in path else path
            assert below(folder, known) or STANDS_FOR.get(folder) in known, path
    written = " ".join(word for words in commands(name) for word in words)
    assert all(path in written for path in outputs(name))


@pytest.mark.parametrize("name", CODE[:-1])
def test_a_stage_over_a_table_depends_on_the_table(name):
    for words in commands(name):
        table = words[words.index("--entries") + 1]
        assert re.fullmatch(r"settings/(\w+)\.json", table)
        assert table in STAGES[name]["deps"]
        assert table.removeprefix("settings/").removesuffix(".json") in Params.model_fields


def test_every_output_path_stands_once():
    paths = [path for name in STAGES for path in outputs(name)]
    assert not [one for i, one in enumerate(paths) for other in paths[:i] if below(one, [other]) or below(other, [one])]


def test_what_differs_between_two_runs_of_the_same_thing_stays_out_of_dvcs_cache():
    for name in STAGES:
        for group in ("outs", "metrics", "plots"):
            for entry in STAGES[name].get(group, []):
                path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
                uncached = path.startswith("timings/") or (name == LOOKING and path != "manifests")
                assert (options.get("cache", True) is False) == uncached


def test_folders_over_tables_persist():
    """Unchanged entries are not made again, so DVC must not delete their files first."""
    for name in CODE[:-1]:
        for group in ("outs", "metrics", "plots"):
            assert all(options["persist"] for entry in STAGES[name].get(group, []) for options in entry.values())


def test_git_ignores_every_output_at_the_root_alone():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {f"/{path.partition('/')[0]}/" for name in STAGES for path in outputs(name)} <= set(ignored)


def test_git_sees_the_lock_file():
    """DVC refuses to run if Git ignores dvc.lock."""
    assert "dvc.lock" not in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_the_lock_file_of_one_machine_is_not_committed():
    """Its digests depend on this machine's floats: on another one, `dvc repro` would change a tracked file."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a Git checkout")
    listed = subprocess.run(["git", "ls-files", "dvc.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""


def test_no_key_is_hidden_from_dvc():
    def keys(tree):
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield key
                yield from keys(value)

    assert not set(keys(TABLES)) & set(BANNED_KEYS)


def test_dvc_is_quiet_and_keeps_one_copy():
    text = (ROOT / ".dvc/config").read_text(encoding="utf-8")
    for line in ("analytics = false", "check_update = false", "autostage = false"):
        assert line in text
    assert 'type = "reflink,hardlink,symlink,copy"' in text


# End to end, on a copy of the project with one small dataset.


def dvc(folder, *arguments):
    return call(folder, "dvc", *arguments)


def ran(said):
    """Return the stages that ran, except the one that always runs."""
    found = re.findall(r"Running stage '(\w+)'", said)
    assert found[0] == LOOKING
    return found[1:]


def edit(folder, change):
    tables = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    change(tables)
    (folder / "params.yaml").write_text(yaml.safe_dump(tables, sort_keys=False), encoding="utf-8")


def set_encoder(folder, **settings):
    edit(folder, lambda tables: tables["runs"]["digits"]["method"]["encoder"].update(settings))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a small copy of the project that has been reproduced once."""
    folder = tmp_path_factory.mktemp("project") / "copy"
    copy_project(folder, small_tables())
    dvc(folder, "repro")
    return folder


@pytest.mark.slow
def test_everything_is_made_in_one_go(project):
    load_params(project / "params.yaml")
    assert (project / "report/index.html").stat().st_size > 1000
    assert (project / "models/digits.npz").is_file()


@pytest.mark.slow
def test_nothing_changed_means_nothing_is_computed(project):
    said = dvc(project, "repro")
    assert ran(said) == []
    assert "[manifest] digits, photos unchanged" in said


@pytest.mark.slow
def test_a_setting_reruns_its_run_alone_and_going_back_gives_the_same_bytes(project):
    names = ("models/digits.npz", "metrics/digits.json")
    before = [(project / name).read_bytes() for name in names]
    set_encoder(project, n_keys=8)
    edit(project, lambda tables: tables["runs"].update(second=copy.deepcopy(tables["runs"]["digits"])))
    assert ran(dvc(project, "repro")) == ["run", "report"]
    assert (project / names[0]).read_bytes() != before[0]
    set_encoder(project, n_keys=16)
    said = dvc(project, "repro")
    assert ran(said) == ["run", "report"]
    assert "[run] digits to do; second unchanged" in said
    assert "[toy] toy unchanged" in said
    assert [(project / name).read_bytes() for name in names] == before
    edit(project, lambda tables: tables["runs"].pop("second"))
    dvc(project, "repro")
    assert not list(project.glob("m*/second.*"))
    assert [(project / name).read_bytes() for name in names] == before


@pytest.mark.slow
def test_a_changed_docstring_or_comment_computes_nothing_and_changed_code_does(project):
    """After any change of the estimator, only the page is made again, because its displays draw the figures."""
    inside = ("dkvb_estimator/metrics/continual.py", "dkvb_estimator/_classifier.py")
    for files in (inside, ("pipeline/evaluation/runs.py",)):
        for file in (project / path for path in files):
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace('"""', '"""Said otherwise.\n\n', 1) + "# a comment\n", encoding="utf-8")
        said = dvc(project, "repro")
        assert "run" in ran(said)
        assert ("report" in ran(said)) == (files == inside)
        assert "[run] digits unchanged" in said
        assert " to do" not in said
    file.write_text(text + "\n\nOTHER = 1\n", encoding="utf-8")
    said = dvc(project, "repro")
    assert "[run] digits to do" in said
    file.write_text(text, encoding="utf-8")
    dvc(project, "repro")


@pytest.mark.slow
def test_an_output_that_was_deleted_or_changed_is_made_again(project):
    before = (project / "curves/digits.csv").read_bytes()
    for damage in ((lambda path: path.unlink()), (lambda path: path.chmod(0o644) or path.write_bytes(b"x"))):
        damage(project / "curves/digits.csv")
        assert "[run] digits to do" in dvc(project, "repro")
        assert (project / "curves/digits.csv").read_bytes() == before


@pytest.mark.slow
def test_everything_again_gives_the_same_bytes(project):
    names = ["models/digits.npz", "metrics/digits.json", "curves/digits.csv", "matrices/digits.json"]
    names += ["prequential/digits.csv", "confidence/digits.json", "key_usage/digits.json", "baselines/digits.json"]
    names += ["metrics/toy.json", "figures/toy.png", "searches/digits.csv"]
    before = [(project / name).read_bytes() for name in names]
    for path in [*project.glob("records/*"), project / ".scratch"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dvc(project, "repro")
    assert [(project / name).read_bytes() for name in names] == before


@pytest.mark.slow
def test_metrics_can_be_shown(project):
    assert "joint_linear_probe" in dvc(project, "metrics", "show", "--json")


def commit(folder, message):
    name = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for arguments in (["add", "-A"], [*name, "commit", "-q", "-m", message]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def first_json(said):
    """Return the record that a command printed, before or after a remark."""
    return json.JSONDecoder().raw_decode(said[said.index("{") :])[0]


@pytest.fixture(scope="module")
def two_commits(project):
    """Return the project after two commits that differ in the number of heads."""
    dvc(project, "repro")
    commit(project, "eight heads")
    set_encoder(project, n_heads=2)
    dvc(project, "repro")
    commit(project, "two heads")
    return project


@pytest.mark.slow
def test_metrics_of_two_commits_differ_where_the_setting_matters(two_commits):
    found = first_json(dvc(two_commits, "metrics", "diff", "--json", "HEAD~1", "HEAD"))
    changed = found["metrics/digits.json"]
    assert {"old", "new", "diff"} <= set(changed["dkvb.final_accuracy"])
    assert not any(name.startswith(("joint_linear_probe", "nearest_class_mean")) for name in changed)
    assert "metrics/toy.json" not in found


@pytest.mark.slow
def test_plots_of_two_commits_lie_over_each_other(two_commits):
    for name, shown in (("curves/digits.csv", "seen_accuracy"), ("prequential/digits.csv", "accuracy")):
        axes = ("-x", "samples_seen", "-y", shown)
        said = dvc(two_commits, "plots", "diff", "HEAD~1", "HEAD", "--targets", name, *axes, "--show-vega")
        drawing = first_json(said)
        assert {point["rev"] for point in drawing["data"]["values"]} == {"HEAD~1", "HEAD"}
        assert shown in json.dumps({part: drawing[part] for part in drawing if part != "data"})


@pytest.mark.slow
def test_an_experiment_changes_one_setting_and_reruns_what_depends_on_it(two_commits):
    setting = "params.yaml:runs.digits.method.encoder.n_keys=8"
    said = dvc(two_commits, "exp", "run", "--name", "fewer", "-S", setting)
    assert ran(said) == ["run", "report"]
    assert "[toy] toy unchanged" in said
    found = first_json(dvc(two_commits, "metrics", "diff", "--json"))
    assert "dkvb.final_accuracy" in found["metrics/digits.json"]


@pytest.mark.slow
def test_a_queued_experiment_computes_what_its_setting_changes_alone(two_commits):
    subprocess.run(["git", "-C", str(two_commits), "checkout", "-q", "--", "."], check=True)
    edit(two_commits, lambda tables: tables["runs"].update(second=copy.deepcopy(tables["runs"]["digits"])))
    dvc(two_commits, "repro")
    commit(two_commits, "two runs")
    dvc(two_commits, "exp", "run", "--queue", "--name", "queued", "-S", "runs.second.method.solver=ridge")
    said = dvc(two_commits, "exp", "run", "--run-all")
    assert "[run] second to do; digits unchanged" in said
    assert "[extract] digits, photos unchanged" in said
    assert "queued" in dvc(two_commits, "exp", "show", "--csv")
    assert two_commits.joinpath("params.yaml").read_text().count("ridge") == 0
    assert SMALL_METHOD["solver"] == "counts"
