"""The search stage finds the same as a plain grid search, but computes keys and codes only once."""

import csv
import json
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from small_run import write_two_caches

from dkvb_estimator import DKVBClassifier, KeyEncoder
from pipeline.config import Search, load_params
from pipeline.evaluation import search as room
from pipeline.evaluation.factory import key_settings, make_method, place_keys
from pipeline.evaluation.search import Candidate, Source, search_settings
from pipeline.stages import search as stage

ENTRY = {
    "embeddings": "own",
    "keys": "keys",
    "folds": 2,
    "method": {"encoder": {"n_heads": 6, "key_dim": 3, "random_state": 0}},
    "grid": {"solver": ["counts", "joint"], "encoder__n_keys": [4, 8], "smoothing": [0.1, 10.0]},
    "heat_map": {"x": "encoder__n_keys", "y": "solver"},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_two_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture
def source(paths, tmp_path):
    own, keys = paths
    (tmp_path / "shared").mkdir()
    return Source(str(own), str(keys), str(tmp_path / "shared"))


def found(source, **changes):
    labels = room._reader(source.cache).labels("train")
    return search_settings(Search(**ENTRY | {"heat_map": None} | changes), source, labels)[0]


class Plain(ClassifierMixin, BaseEstimator):
    """The same search without sharing anything: place keys, fit."""

    def __init__(self, estimator=None, key_rows=None):
        self.estimator, self.key_rows = estimator, key_rows

    def fit(self, X, y):
        self.model_ = place_keys(clone(self.estimator), self.key_rows).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X):
        return self.model_.predict(X)


def test_settings_of_learning_share_keys_and_those_that_learned_state_rests_on_do_not():
    usual = key_settings(make_method({}))
    for other in ({"objective": "ridge", "alpha": 0.01}, {"remember": False}, {"solver": "counts"}):
        assert key_settings(make_method(other)) == usual
    for other in ({"n_selected": 2}, {"key_dim": 3}):
        assert key_settings(make_method({"encoder": other})) != usual


def test_scores_are_those_of_a_plain_grid_search(source):
    X, y = room._reader(source.cache).as_numpy("train")
    plain = Plain(make_method(ENTRY["method"]), room._reader(source.key_cache).read("train"))
    grid = {f"estimator__{name}": values for name, values in ENTRY["grid"].items()}
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    results = GridSearchCV(plain, grid, cv=folds, refit=False).fit(X, y).cv_results_
    names = sorted(ENTRY["grid"])
    theirs = [f"estimator__{name}" for name in names]
    expected = {
        tuple(settings[name] for name in theirs): score
        for settings, score in zip(results["params"], results["mean_test_score"])
    }
    table = found(source)
    assert {tuple(line[name] for name in names): line["mean_score"] for line in table} == pytest.approx(
        expected, abs=1e-6
    )
    assert [line["rank"] for line in table] == sorted(line["rank"] for line in table)


def test_keys_are_placed_and_rows_encoded_once_for_candidates_that_share_them(source, monkeypatch):
    placed, encoded = [], []
    fit, transform = KeyEncoder.fit, KeyEncoder.transform
    monkeypatch.setattr(KeyEncoder, "fit", lambda self, X: (placed.append(self.n_keys), fit(self, X))[1])
    monkeypatch.setattr(KeyEncoder, "transform", lambda self, X: (encoded.append(len(X)), transform(self, X))[1])
    assert len(found(source)) == 8
    assert sorted(placed) == [4, 8]
    assert encoded == [80] * 2


def test_a_failed_candidate_is_reported_by_name_and_reason_and_costs_no_other(source):
    table = found(source, grid={"encoder__n_keys": [4, 8], "encoder__n_selected": [1, 6]})
    failed = [line for line in table if line["error"]]
    assert [(line["encoder__n_keys"], line["encoder__n_selected"]) for line in failed] == [(4, 6)]
    assert failed == table[-1:]
    assert failed[0]["rank"] is failed[0]["mean_score"] is None
    assert failed[0]["error"].startswith("ValueError: n_selected=6 is not valid; expected at most n_keys=4")
    assert all(line["mean_score"] > 0.5 for line in table[:-1])


def test_codes_of_another_number_of_selected_keys_are_others(source):
    encoders = (KeyEncoder(6, 8, 3, n_selected=m, random_state=0) for m in (1, 2))
    one, two = (source.started(DKVBClassifier(encoder))[1] for encoder in encoders)
    assert (one.shape[1], two.shape[1]) == (6, 12)
    np.testing.assert_array_equal(one, two[:, ::2])


def test_unknown_settings_and_too_many_folds_are_refused(source):
    with pytest.raises(ValueError, match=r"method\.encoder\.n_key is not a setting \(did you mean 'n_keys'"):
        found(source, grid={"encoder__n_key": [4]})
    with pytest.raises(
        ValueError, match=r"folds is 21, but class 0 has 20 rows; expected a row of every class in each"
    ):
        found(source, folds=21)


def test_settings_of_gradient_steps_are_searched_by_name(source):
    candidates = found(source, grid={"solver": ["sgd"], "solver_params__learning_rate": [1.0, 30.0]})
    assert {row["solver_params__learning_rate"] for row in candidates} == {1.0, 30.0}
    assert not any(row["error"] for row in candidates)


def test_a_candidate_is_cloned_with_its_settings(source):
    candidate = clone(Candidate(DKVBClassifier(), source, {"encoder__n_keys": 7}))
    assert candidate.get_params()["settings"] == {"encoder__n_keys": 7}


def settings_file(folder):
    tables = {
        "datasets": {"pets": {"kind": "digits", "test_fraction": 0.3, "seed": 0}},
        "embeddings": {
            name: {
                "dataset": "pets",
                "backbone": "tiny",
                "layer": "avgpool",
                "image_side": 8,
                "compute_dtype": "float32",
                "storage_dtype": "float32",
            }
            for name in ("own", "keys")
        },
        "runs": {},
        "searches": {"pets": ENTRY},
    }
    (folder / "params.yaml").write_text(json.dumps(tables), encoding="utf-8")
    return folder / "params.yaml"


def run(folder, source, monkeypatch, params=None):
    argv = [
        "pets",
        "--params",
        str(params or settings_file(folder)),
        "--cache",
        source.cache,
        "--key-cache",
        source.key_cache,
    ]
    argv += ["--table", str(folder / "out/pets.csv"), "--best", str(folder / "out/pets.json")]
    monkeypatch.setattr(sys, "argv", ["search", *argv, "--timings", str(folder / "out/seconds.json")])
    return stage.cli.run(stage.main, stage.build_parser())


def test_the_stage_writes_table_best_and_seconds_the_same_each_time(tmp_path, source, monkeypatch, capsys):
    assert run(tmp_path, source, monkeypatch) == 0
    with (tmp_path / "out/pets.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["rank", "mean_score", "std_score", "encoder__n_keys", "smoothing", "solver", "error"]
    assert len(lines) == 8
    best = json.loads((tmp_path / "out/pets.json").read_text())
    assert best["best_score"] == float(lines[0]["mean_score"])
    assert best["heat_map"] == {"x": "encoder__n_keys", "y": "solver"}
    model = make_method(best["best_params"])  # the settings can be copied into a run unchanged
    assert model.encoder.n_heads == 6
    assert str(model.encoder.n_keys) == lines[0]["encoder__n_keys"]
    assert set(json.loads((tmp_path / "out/seconds.json").read_text())) == {"keys_and_codes", "fit_and_test"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pets.csv", "pets.json", "seconds.json"]
    assert "[search pets] best of 8:" in capsys.readouterr().err
    before = [(tmp_path / "out" / name).read_bytes() for name in ("pets.csv", "pets.json")]
    assert run(tmp_path, source, monkeypatch) == 0
    assert [(tmp_path / "out" / name).read_bytes() for name in ("pets.csv", "pets.json")] == before


def test_a_search_of_which_nothing_can_be_fitted_says_why(tmp_path, source, monkeypatch, capsys):
    entry = ENTRY | {"grid": {"encoder__n_selected": [9], "encoder__n_keys": [4, 8]}, "heat_map": None}
    params = settings_file(tmp_path)
    params.write_text(json.dumps(json.loads(params.read_text()) | {"searches": {"pets": entry}}), encoding="utf-8")
    assert run(tmp_path, source, monkeypatch, params) == 1
    assert "all 2 candidates failed, the first with ValueError: n_selected=9" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["many", "0", "-1"])
def test_a_number_of_processes_that_is_none_is_named(tmp_path, source, monkeypatch, capsys, text):
    monkeypatch.setenv("DKVB_WORKERS", text)
    assert run(tmp_path, source, monkeypatch) == 1
    assert f"DKVB_WORKERS is '{text}'; expected a whole number, 1 or more" in capsys.readouterr().err


def test_wrong_entries_are_refused(tmp_path):
    params = settings_file(tmp_path)
    for change, said in {
        "grid twice": (
            {"method": {"encoder": {"n_keys": 4}}},
            "encoder__n_keys is in method and in grid; expected it in one",
        ),
        "axis": (
            {"heat_map": {"x": "alpha", "y": "solver"}},
            "heat_map names 'alpha'; expected one of solver, encoder__",
        ),
        "misspelt": ({"fold": 3}, r"searches\.pets\.fold is not a setting \(did you mean 'folds'"),
        "reference": (
            {"keys": "key"},
            r"searches\.pets\.keys: 'key' is not an entry of embeddings \(did you mean 'keys'",
        ),
        "empty": ({"grid": {}}, "searches.pets.grid"),
    }.values():
        tables = json.loads(settings_file(tmp_path).read_text())
        tables["searches"]["pets"].update(change)
        params.write_text(json.dumps(tables), encoding="utf-8")
        with pytest.raises(ValueError, match=said):
            load_params(params)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_dask_cluster_finds_the_same(tmp_path, source, monkeypatch):
    from distributed import LocalCluster

    assert run(tmp_path, source, monkeypatch) == 0
    before = [(tmp_path / "out" / name).read_bytes() for name in ("pets.csv", "pets.json")]
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        monkeypatch.setenv("DKVB_DASK", cluster.scheduler_address)
        assert run(tmp_path, source, monkeypatch) == 0
    assert [(tmp_path / "out" / name).read_bytes() for name in ("pets.csv", "pets.json")] == before
