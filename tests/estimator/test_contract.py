"""scikit-learn's own estimator checks, and common uses of its estimators."""

import pickle
import re
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Memory
from models import flat, placed
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from dkvb_estimator import DKVBClassifier, KeyEncoder, _encoder
from dkvb_estimator._encoding import DeviceEncoder
from dkvb_estimator.baselines import NearestClassMean, RandomProjectionRidge, StreamingLDA

ROOT = Path(__file__).parents[2]

SGD_DEPENDS_ON_ORDER = "sgd depends on the order and grouping of samples, and weights change both"
SGD_TAKES_SMALL_STEPS = "a few small sgd steps cannot turn a prediction that follows counts by class weights"
EXPECTED = {
    "sgd": {
        "check_sample_weight_equivalence_on_dense_data": SGD_DEPENDS_ON_ORDER,
        "check_class_weight_classifiers": SGD_TAKES_SMALL_STEPS,
    },
}


def small(**settings):
    return flat(**({"n_heads": 24, "n_keys": 32, "key_dim": 4, "random_state": 0} | settings))


def failures(estimator, expected):
    """Run all of scikit-learn's checks; our warning about a small first batch is meant for users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks=expected)
    assert sum(result["status"] in ("passed", "xfail") for result in results) >= 50
    return {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}


@pytest.mark.parametrize("estimator", [DKVBClassifier, KeyEncoder])
def test_the_constructor_is_inspected_once_and_a_subclass_has_its_own_parameters(estimator, monkeypatch):
    class Narrow(estimator):
        def __init__(self, *, narrow=1, random_state=0):
            super().__init__(random_state=random_state)
            self.narrow = narrow

    assert Narrow().get_params() == {"narrow": 1, "random_state": 0}
    usual = estimator().get_params()
    monkeypatch.setattr("sklearn.base.inspect.signature", None)
    assert estimator().get_params() == usual


@pytest.mark.parametrize(  # the default, joint, is also checked below
    "solver", ["counts", "sgd", *(pytest.param(solver, marks=pytest.mark.slow) for solver in ("joint", "ridge"))]
)
def test_scikit_learns_checks_pass(solver):
    assert failures(small(solver=solver), EXPECTED.get(solver, {})) == {}


def test_scikit_learns_checks_pass_for_nearest_class_mean():
    assert failures(NearestClassMean(), {}) == {}


def test_scikit_learns_checks_pass_for_the_default_encoder_made_small(monkeypatch):
    def small_default(self):
        return KeyEncoder(24, 32, 4, random_state=self.random_state)

    monkeypatch.setattr(DKVBClassifier, "_default_encoder", small_default)
    assert failures(DKVBClassifier(random_state=0), {}) == {}


def test_it_works_in_a_pipeline_and_a_grid_search():
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), small())
    search = GridSearchCV(model, {"dkvbclassifier__encoder__n_keys": [8, 32]}, cv=3)
    assert search.fit(X, y).best_score_ > 0.8


def test_a_grid_search_reaches_the_parameters_of_an_encoder_that_is_not_there_yet():
    X, y = load_iris(return_X_y=True)
    grid = {"encoder__n_keys": [8, 16], "encoder__n_heads": [24]}
    search = GridSearchCV(DKVBClassifier(random_state=0), grid, cv=3).fit(X, y)
    assert search.best_score_ > 0.8
    assert search.best_estimator_.encoder_.keys_.shape[0] == 24
    assert search.estimator.encoder is None


def test_a_grid_search_with_a_memory_encodes_once_per_encoder_setting_and_fold(tmp_path, monkeypatch):
    X, y = load_iris(return_X_y=True)
    encoded, drawn = [], []
    encode, draw = DeviceEncoder.encode, _encoder.draw_codebook

    def counted_encode(self, rows, progress):
        encoded.append((self._keys.shape[1], len(rows)))
        return encode(self, rows, progress)

    def counted_draw(sketches, params, **options):
        drawn.append(params["n_keys"])
        return draw(sketches, params, **options)

    monkeypatch.setattr(DeviceEncoder, "encode", counted_encode)
    monkeypatch.setattr(_encoder, "draw_codebook", counted_draw)
    grid = {"encoder__n_keys": [8, 16], "smoothing": [0.1, 1.0, 10.0]}
    scores = []
    for memory in (str(tmp_path), Memory(tmp_path, verbose=0), None):
        model = DKVBClassifier(KeyEncoder(12, 8, 2, memory=memory, random_state=0), solver="counts")
        search = GridSearchCV(model, grid, cv=3, refit=False).fit(X, y)
        scores.append(search.cv_results_["mean_test_score"])
        if memory == str(tmp_path):
            assert sorted(encoded) == [(8, 100)] * 3 + [(16, 100)] * 3
            assert sorted(drawn) == [8] * 3 + [16] * 3
    assert len(drawn) == 6 + 6 + 18
    np.testing.assert_array_equal(scores[0], scores[2])


@pytest.mark.parametrize("solver", ["joint", "counts"])
def test_a_frozen_encoder_stays_in_a_grid_search(solver):
    X, y = load_iris(return_X_y=True)
    frozen = FrozenEstimator(KeyEncoder(24, 32, 4, random_state=0).fit(X))
    search = GridSearchCV(DKVBClassifier(frozen, solver=solver), {"class_weight": [None, "balanced"]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.8
    assert search.best_estimator_.encoder_.fingerprint_ == frozen.estimator.fingerprint_
    assert search.best_estimator_.forgetting_is_exact_


@pytest.mark.parametrize("frozen", [True, False])
def test_a_pipeline_of_both_halves_with_a_memory_is_the_classifier(frozen, tmp_path):
    X, y = load_iris(return_X_y=True)
    encoder = KeyEncoder(24, 32, 4, random_state=0)
    expected = DKVBClassifier(clone(encoder)).fit(X, y).predict_proba(X)
    step = FrozenEstimator(encoder.fit(X)) if frozen else encoder
    pipeline = make_pipeline(step, DKVBClassifier("precomputed"), memory=str(tmp_path))
    for _ in range(2):  # the second time from the memory
        np.testing.assert_allclose(clone(pipeline).fit(X, y).predict_proba(X), expected, atol=1e-6)
    model = pickle.loads(pickle.dumps(pipeline.fit(X, y)))
    np.testing.assert_array_equal(model.predict_proba(X), pipeline.predict_proba(X))
    assert model[-1].encoder_.fingerprint_ == encoder.fit(X).fingerprint_


def test_pickle_predicts_the_same():
    X, y = load_iris(return_X_y=True)
    model = small(solver="ridge").fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


def test_a_pickle_of_another_state_version_is_refused():
    state = small().fit(*load_iris(return_X_y=True)).__getstate__() | {"_schema_version": 99}
    with pytest.raises(ValueError, match="_schema_version=99 of the stored model is not supported; expected 2"):
        small().__setstate__(state)


def test_clone_keeps_a_frozen_encoder_and_forgets_what_was_learned():
    X, y = load_iris(return_X_y=True)
    model = placed(small(), X[:50]).fit(X, y)
    twin = clone(model)
    assert twin.encoder.estimator is model.encoder.estimator
    with pytest.raises(NotFittedError):
        twin.predict(X)


def test_data_frames_and_text_labels_are_welcome():
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = pd.Series(np.array(["setosa", "versicolor", "virginica"])[y])
    model = small().fit(X, names)
    assert model.feature_names_in_.tolist() == X.columns.tolist()
    assert set(model.predict(X)) <= {"setosa", "versicolor", "virginica"}


def test_metadata_routing_carries_sample_weight():
    import sklearn

    X, y = load_iris(return_X_y=True)
    with sklearn.config_context(enable_metadata_routing=True):
        model = small().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"encoder__n_keys": [16]}, cv=2).fit(X, y, sample_weight=np.ones(len(y)))
    assert search.best_estimator_.key_counts_.dtype.kind == "f"


@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_probabilities_can_be_calibrated_by_scikit_learn(solver):
    X, y = load_iris(return_X_y=True)
    calibrated = CalibratedClassifierCV(small(solver=solver), cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.85
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), np.ones(150))


def test_frozen_halves_and_frozen_models_can_be_calibrated_by_scikit_learn():
    X, y = load_iris(return_X_y=True)
    frozen = FrozenEstimator(KeyEncoder(24, 32, 4, random_state=0).fit(X))
    pipeline = make_pipeline(KeyEncoder(24, 32, 4, random_state=0), DKVBClassifier("precomputed"))
    whole = FrozenEstimator(DKVBClassifier(frozen).fit(X, y))
    for model in (DKVBClassifier(frozen), pipeline, whole):
        calibrated = CalibratedClassifierCV(model, cv=3).fit(X, y)
        assert calibrated.score(X, y) > 0.85
        assert len(calibrated.calibrated_classifiers_) in (1, 3)


def test_parameters_are_set_and_got_by_name():
    model = small().set_params(encoder__n_keys=8, encoder__density=0.5, smoothing=2.0)
    params = model.get_params()
    assert [params[name] for name in ("encoder__n_keys", "encoder__density", "smoothing")] == [8, 0.5, 2.0]
    with pytest.raises(ValueError, match="Invalid parameter 'n_key' for estimator KeyEncoder"):
        model.set_params(encoder__n_key=8)
    with pytest.raises(ValueError, match="Invalid parameter 'n_keys' for estimator DKVBClassifier"):
        model.set_params(n_keys=8)


@pytest.mark.parametrize("given", [{}, {"encoder": None}])
def test_parameters_of_the_encoder_are_set_where_there_is_none_yet(given):
    model = DKVBClassifier(random_state=1).set_params(encoder__n_keys=8, random_state=3, **given)
    assert model.encoder.get_params() == KeyEncoder(n_keys=8, random_state=3).get_params()


def test_a_notebook_shows_parameters_and_a_link_to_the_documentation():
    page = small()._repr_html_()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (link,) = set(re.findall(r'class="sk-estimator-doc-link[^"]*"[^>]*href="([^"]+)"', page))
    assert link in project["urls"].values()
    assert "n_heads: int, default=1024" in page
    assert "smoothing: float, default=10.0" in page


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_any_float_type_and_device_are_learned(device, kind):
    X, y = load_iris(return_X_y=True)
    model = small().fit(torch.tensor(X, dtype=kind, device=device), torch.tensor(y, device=device))
    rows = torch.tensor(X, dtype=kind, device=device, requires_grad=True)
    assert model.score(rows, torch.tensor(y, device=device).cpu()) > 0.9
    assert isinstance(model.predict(rows), np.ndarray)


@pytest.mark.parametrize("model", [StreamingLDA(), RandomProjectionRidge(), NearestClassMean()])
def test_baselines_refuse_weights_by_name(model):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(TypeError, match="sample_weight"):
        model.fit(X, y, sample_weight=np.ones(len(y)))


SHOWN = [
    lambda model: model._repr_html_(), lambda model: model._repr_mimebundle_(), repr, str,
    lambda model: make_pipeline(StandardScaler(), model)._repr_html_(),
]  # fmt: skip


@pytest.mark.parametrize("show", SHOWN)
@pytest.mark.parametrize("state", ["new", "keys", "fitted", "wrong"])
@pytest.mark.parametrize("solver", ["joint", "counts", "ridge", "sgd"])
def test_showing_a_model_computes_nothing(monkeypatch, solver, state, show):
    X, y = load_iris(return_X_y=True)
    model = small(solver=solver)
    if state != "new":
        placed(model, X)
    if state in ("fitted", "wrong"):
        model.partial_fit(X, y)
    if state == "wrong":
        model.set_params(encoder=KeyEncoder(n_keys=3), class_weight=np.ones(3))

    def computes(*_):
        raise AssertionError("something was computed to be shown")

    for name in ("solve_values", "solve_jointly", "make_reader"):
        monkeypatch.setattr(f"dkvb_estimator._classifier.{name}", computes)
    for name in ("fingerprint", "encoder"):
        monkeypatch.setattr(f"dkvb_estimator._encoding.codebook.Codebook.{name}", computes)
    before = dict(vars(model))
    assert "DKVBClassifier" in str(show(model))
    assert vars(model) == before


def test_a_notebook_shows_what_is_stored_with_its_description():
    page = small().fit(*load_iris(return_X_y=True))._repr_html_()
    for name in ("classes_", "n_features_in_", "n_iter_"):
        assert name in page
    assert "temperature_" not in page
