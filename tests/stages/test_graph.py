"""dvc.yaml agrees with what the stages import, read and write."""

import ast
import functools
import json
import re
import subprocess

import pytest
import yaml
from small_project import OURS, ROOT, call, copy_project

from pipeline.config.params import BANNED_KEYS, Params, load_params

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
TABLES = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
# How a stage reads its settings, and what DVC then has to watch. What `embedding_of` reads stands in the cache too,
# which is a dependency, and may stand in either of two tables.
ACCESSORS = {
    "dataset": "datasets.${key}",
    "folder": "folders.${key}",
    "embedding": "embeddings.${key}",
    "imported": "imports.${key}",
    "run": "runs.${key}",
    "rival": "rivals.${key}",
    "toy": "toy",
    "datasets": "datasets",
    "embeddings": "embeddings",
    "search": "searches.${key}",
}
# Entries that name a stream, which is then read as well.
WITH_STREAM = {"run": "streams.${item.stream}", "rival": "streams.${item.stream}"}
OURS_TO_RUN = [name for name, stage in STAGES.items() if "python" in stage.get("do", stage)["cmd"]]


def module(name):
    """Return the module that a stage runs."""
    return re.search(r"-m (pipeline\.stages\.\w+)", body(name)["cmd"])[1]


def body(name):
    return STAGES[name].get("do", STAGES[name])


def plain(entries):
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outputs(name):
    return [path for group in ("outs", "metrics", "plots") for path in plain(body(name).get(group, []))]


def file_of(module):
    """Return the file of a module of ours, or None for a name inside one."""
    path = ROOT.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@functools.cache
def imported(path):
    """Return the modules of ours that a file imports anywhere, packages on the way included."""
    package, found = ".".join(path.relative_to(ROOT).parent.parts), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1) if parts[0] in OURS}
    return found


@functools.cache
def closure(module):
    """Return every file of ours that running a module reads as code."""
    files, todo = set(), [module, module.partition(".")[0]]
    while todo:
        path = file_of(todo.pop())
        if path and path not in files:
            files.add(path)
            todo.extend(imported(path))
    return {path.relative_to(ROOT).as_posix() for path in files}


def expand(text, key, item):
    text = text.replace("${key}", key)
    return re.sub(r"\$\{item\.(\w+)\}", lambda found: str(item[found[1]]), text)


def expanded_outputs():
    for name, stage in STAGES.items():
        if "foreach" not in stage:
            yield from outputs(name)
            continue
        for key, item in TABLES[stage["foreach"].strip("${}")].items():
            yield from (expand(path, key, item) for path in outputs(name))


@pytest.mark.parametrize("name", OURS_TO_RUN)
def test_code_that_a_stage_runs_is_among_its_deps(name):
    deps = body(name)["deps"]
    missing = {path for path in closure(module(name)) if not any(path == d or path.startswith(d + "/") for d in deps)}
    assert not missing


@pytest.mark.parametrize("name", OURS_TO_RUN)
def test_code_among_the_deps_is_code_that_the_stage_runs(name):
    code = {dep for dep in body(name)["deps"] if dep.startswith(("pipeline/", "dkvb_estimator"))}
    run = closure(module(name))
    idle = {dep for dep in code if not any(path == dep or path.startswith(dep + "/") for path in run)}
    assert not idle


@pytest.mark.parametrize("name", OURS_TO_RUN)
def test_no_dependency_stands_twice(name):
    assert len(body(name)["deps"]) == len(set(body(name)["deps"]))


def settings_read(name):
    """Return what a stage reads of a `Params`: attributes of ``params`` or of what ``load_params`` returned."""
    for node in ast.walk(ast.parse(file_of(module(name)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ACCESSORS:
            owner = ast.unparse(node.value)
            if owner.endswith("params") or owner.startswith("load_params("):
                yield ACCESSORS[node.attr]
                if node.attr in WITH_STREAM:
                    yield WITH_STREAM[node.attr]


@pytest.mark.parametrize("name", OURS_TO_RUN)
def test_settings_that_a_stage_reads_are_its_params(name):
    """What DVC would refuse where a table is missing is watched otherwise: as a whole file, or in the command."""
    assert "--params params.yaml" in body(name)["cmd"]
    read, watched = set(settings_read(name)), set(plain(body(name).get("params", [])))
    if name == "report":
        assert watched == {"params.yaml"}
    elif name == "toy":
        assert read == {"toy"}
        assert body(name)["cmd"].startswith("true ${toy} &&")
    else:
        assert read
        assert read == watched


def test_tables_that_may_be_missing_are_all_that_there_are():
    empty = yaml.safe_load((ROOT / "pipeline/an_empty_table_is_written_{}.yaml").read_text(encoding="utf-8"))
    assert empty == {table: {} for table in sorted(Params.model_fields)}


def test_folders_that_stages_depend_on_are_made_by_the_first():
    made = {path.partition("/")[0] for path in outputs("layout")}
    needed = {dep for name in OURS_TO_RUN for dep in body(name)["deps"] if dep.isidentifier()} - {"dkvb_estimator"}
    assert made == needed


@pytest.mark.parametrize("name", STAGES)
def test_every_path_of_a_command_is_a_dep_or_an_output(name):
    """The key cache is the one exception: its card, which holds its sha256, stands for it."""
    known = {*body(name).get("deps", []), *outputs(name), "params.yaml", "caches/${item.keys}.h5"}
    paths = {word for word in body(name)["cmd"].split() if "/" in word}
    assert paths <= known
    assert set(outputs(name)) <= paths


def test_card_stands_for_the_key_cache():
    for name in ("train", "rivals", "evaluate", "search"):
        assert "caches/${item.keys}.json" in body(name)["deps"]


def test_every_output_path_stands_once():
    paths = list(expanded_outputs())
    assert len(paths) == len(set(paths))
    assert len(paths) > 10


def test_timings_alone_stay_out_of_dvcs_cache():
    for name in STAGES:
        for group in ("outs", "metrics", "plots"):
            for entry in body(name).get(group, []):
                path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
                assert (options.get("cache", True) is False) == path.startswith("timings/")


def test_git_ignores_every_output():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {path.partition("/")[0] + "/" for path in expanded_outputs()} <= set(ignored)


def test_git_sees_the_lock_file():
    """DVC refuses to run where Git ignores dvc.lock."""
    assert "dvc.lock" not in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


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

SMALL = {
    "datasets": {"photos": {"kind": "photos", "n_crops": 24, "seed": 0}, "digits": None},
    "estimator": {"solver": "counts", "n_heads": 8, "n_keys": 16, "key_dim": 4, "random_state": 0},
}


def dvc(folder, *arguments):
    return call(folder, "dvc", *arguments)


def edit(folder, **settings):
    tables = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    tables["runs"]["digits"]["estimator"].update(settings)
    (folder / "params.yaml").write_text(yaml.safe_dump(tables, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a copy of the project, small and reproduced once."""
    folder = tmp_path_factory.mktemp("project") / "copy"
    tables = {**TABLES, "runs": {"digits": TABLES["runs"]["counts"] | {"estimator": SMALL["estimator"]}}}
    small = {
        "estimator": {"n_heads": 8, "key_dim": 4, "random_state": 0},
        "grid": {"n_keys": [8, 16]},
        "heat_map": None,
    }
    tables["searches"] = {"digits": TABLES["searches"]["digits"] | small}
    tables["datasets"] = TABLES["datasets"] | {"photos": SMALL["datasets"]["photos"]}
    tables["embeddings"] = {name: entry | {"image_side": 32} for name, entry in TABLES["embeddings"].items()}
    quick = ["nearest_class_mean", "joint_linear_probe"]
    tables["rivals"] = {"digits": TABLES["rivals"]["digits"] | {"heads": quick}}
    tables["toy"] = TABLES["toy"] | {"steps": 20}
    copy_project(folder, tables)
    dvc(folder, "repro")
    return folder


@pytest.mark.slow
def test_everything_is_made_in_one_go(project):
    load_params(project / "params.yaml")
    assert (project / "report/index.html").stat().st_size > 1000
    assert (project / "models/digits.npz").is_file()


@pytest.mark.slow
def test_nothing_changed_means_nothing_runs(project):
    said = dvc(project, "repro")
    assert "Running stage" not in said
    assert "Data and pipelines are up to date" in said


@pytest.mark.slow
def test_estimator_setting_reruns_learning_alone_and_going_back_restores(project):
    before = (project / "models/digits.npz").read_bytes(), (project / "metrics/digits.json").read_bytes()
    edit(project, n_keys=8)
    said = dvc(project, "repro")
    assert re.findall(r"Running stage '(\w+)", said) == ["train", "evaluate", "report"]
    assert (project / "models/digits.npz").read_bytes() != before[0]
    edit(project, n_keys=16)
    said = dvc(project, "repro")
    assert "Running stage" not in said
    assert ((project / "models/digits.npz").read_bytes(), (project / "metrics/digits.json").read_bytes()) == before


@pytest.mark.slow
def test_forced_rerun_gives_the_same_bytes(project):
    names = ["models/digits.npz", "metrics/digits.json", "curves/digits.csv", "matrices/digits.json"]
    names += ["prequential/digits.csv", "confidence/digits.json", "audits/digits.json", "rivals/digits.json"]
    names += ["metrics/toy.json", "figures/toy.png"]
    before = [(project / name).read_bytes() for name in names]
    dvc(project, "repro", "--single-item", "--force", "toy", "rivals@digits", "train@digits", "evaluate@digits")
    assert [(project / name).read_bytes() for name in names] == before


@pytest.mark.slow
def test_metrics_can_be_shown(project):
    assert "joint_linear_probe" in dvc(project, "metrics", "show", "--json")


def commit(folder, message):
    name = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for arguments in (["add", "-A"], [*name, "commit", "-q", "-m", message]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def first_json(said):
    """Return the record that a command printed before or after a remark."""
    return json.JSONDecoder().raw_decode(said[said.index("{") :])[0]


@pytest.fixture(scope="module")
def two_commits(project):
    """Return the project after two commits that differ in the number of heads."""
    dvc(project, "repro")
    commit(project, "eight heads")
    edit(project, n_heads=2)
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
        said = dvc(two_commits, "plots", "diff", "HEAD~1", "HEAD", "--targets", name, "--show-vega")
        drawing = first_json(said)
        assert {point["rev"] for point in drawing["data"]["values"]} == {"HEAD~1", "HEAD"}
        assert shown in json.dumps(drawing.get("encoding", drawing))


@pytest.mark.slow
def test_an_experiment_changes_one_setting_and_reruns_what_depends_on_it(two_commits):
    setting = "params.yaml:runs.digits.estimator.n_keys=8"
    said = dvc(two_commits, "exp", "run", "--name", "fewer", "-S", setting)
    assert re.findall(r"Running stage '(\w+)", said) == ["train", "evaluate", "report"]
    found = first_json(dvc(two_commits, "metrics", "diff", "--json"))
    assert "dkvb.final_accuracy" in found["metrics/digits.json"]
