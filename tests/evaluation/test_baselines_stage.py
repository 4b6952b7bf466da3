import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from small_run import SETTINGS, command, header, make_few_steps, split, write_two_caches

from dkvb_estimator.baselines import StreamingLDA
from pipeline.cache import open_cache, write_cache
from pipeline.config import BASELINES, ON_REQUEST, Baselines
from pipeline.evaluation import baselines as room
from pipeline.evaluation.baselines import GradientClassifier, make_baseline, measure_baselines
from pipeline.evaluation.loop import answer, make_bench
from pipeline.stages import baselines as stage

QUICK = [method for method in BASELINES if not method.endswith("000") or method.endswith("_2000")]
ENTRY = {"embeddings": "own", "keys": "keys", "stream": SETTINGS["stream"], "methods": QUICK}


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        make_few_steps(patch)
        yield


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_two_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def bench(paths):
    with open_cache(paths[0]) as own:
        return make_bench(own, Baselines(**ENTRY).stream)


@pytest.fixture(scope="module")
def scale(paths):
    with open_cache(paths[1]) as keys:
        return [keys.read("train")]


@pytest.fixture(scope="module")
def found(bench, scale):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "WIDEST_BY_BATCHES", 100)
        return measure_baselines(Baselines(**ENTRY), bench, scale)


def run_stage(folder, paths, **changes):
    argv = command(folder, paths, baselines={"pets": ENTRY | changes})
    return stage.cli.run(stage.main, stage.build_parser(), [*argv, "--output", str(folder / "tables.json")])


def test_every_method_meets_every_order(found):
    assert list(found) == QUICK
    assert {method: len(result.outcomes) for method, result in found.items()} == {
        method: 0 if method == "joint_linear_probe" else 2 for method in QUICK
    }


def test_every_method_learns_easy_classes(found):
    for method, result in found.items():
        for outcome in result.outcomes:
            assert np.diagonal(outcome.accuracy_matrix).mean() > 0.9, method
    remembering = set(QUICK) - {"linear_probe", "mlp", "joint_linear_probe"}
    assert all(found[method].outcomes[0].all_accuracy[-1] > 0.9 for method in remembering)


def test_costs_say_what_each_method_had_to_have(found):
    needing = {method for method, result in found.items() if result.facts["needs_classes"]}
    assert needing == {"linear_probe", "mlp", "joint_linear_probe", "gaussian_naive_bayes"}
    assert {
        method: result.facts["passes"] for method, result in found.items() if result.facts["passes"] > 1
    } == dict.fromkeys(("linear_probe", "mlp", "joint_linear_probe"), 20)
    bytes_of = {method: result.facts["state_bytes"] for method, result in found.items()}
    assert bytes_of["k_nearest_neighbours"] > 80 * 24 * 4
    assert bytes_of["nearest_class_mean"] < bytes_of["streaming_lda"] < bytes_of["random_projection_ridge_2000"]


def test_every_method_that_scores_classes_says_what_is_forgotten_and_what_is_growth(found):
    firsts = {method: result.outcomes[0] for method, result in found.items() if result.outcomes}
    split = {method for method, outcome in firsts.items() if outcome.restricted is not None}
    assert set(firsts) - split == {"k_nearest_neighbours"}
    for method in split:
        for outcome in found[method].outcomes:
            assert outcome.restricted[-1] == outcome.accuracy_matrix[-1, -1]
            assert (outcome.restricted >= outcome.accuracy_matrix[-1]).all(), method


@pytest.mark.parametrize("name", ["linear_probe", "mlp", "gaussian_naive_bayes", "streaming_lda"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_lead_to_the_same_predictions(bench, scale, name, n_classes):
    rows = bench.y < n_classes
    tested = bench.y_test < n_classes
    given = replace(bench, X=bench.X[rows], y=bench.y[rows], X_test=bench.X_test[tested], y_test=bench.y_test[tested])
    method = make_baseline(name, given, scale, normalize=True).make(0)
    method.partial_fit(given.X, given.y)
    np.testing.assert_array_equal(answer(method, bench.X_test)[0], method.predict(bench.X_test))


@pytest.mark.parametrize("hidden", [None, 16])
def test_logits_of_a_gradient_method_are_those_of_its_probabilities(four_classes, hidden):
    X, y = four_classes
    method = GradientClassifier(4, hidden=hidden, scale=X).partial_fit(X, y)
    expected = method.model.predict_proba(method._scaled(X))
    np.testing.assert_allclose(softmax(method.decision_function(X), axis=1), expected, rtol=1e-4, atol=1e-6)


def test_wide_ridge_is_not_solved_once_a_batch(found):
    assert found["random_projection_ridge_2000"].met is None
    assert found["streaming_lda"].met.shape == (2, 80)


def test_lda_tells_classes_not_yet_seen(found):
    assert found["streaming_lda"].facts["mahalanobis_auroc"] > 0.9
    assert "novelty" not in found["nearest_class_mean"].facts


def test_lda_has_the_shrinkage_that_all_training_rows_choose(bench, scale):
    chosen = StreamingLDA("auto", normalize=True).fit(bench.X, bench.y).shrinkage_
    assert make_baseline("streaming_lda", bench, scale, normalize=True).make(1).shrinkage == chosen


@pytest.mark.parametrize("normalize", [True, False])
def test_neighbours_and_bayes_are_scikit_learns_whatever_the_batches(bench, scale, normalize):
    X, X_test = bench.X, bench.X_test
    if normalize:
        X, X_test = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, X_test))
    for name, theirs in (("k_nearest_neighbours", KNeighborsClassifier()), ("gaussian_naive_bayes", GaussianNB())):
        method = make_baseline(name, bench, scale, normalize=normalize).make(0)
        for rows in np.array_split(np.arange(len(bench.X)), 3):
            method.partial_fit(bench.X[rows], bench.y[rows])
        expected = theirs.fit(X, bench.y).predict(X_test)
        assert (method.predict(bench.X_test) == expected).mean() > 0.97, name


def test_a_class_that_naive_bayes_has_not_met_is_never_answered(bench, scale):
    method = make_baseline("gaussian_naive_bayes", bench, scale, normalize=False).make(0)
    method.partial_fit(bench.X[bench.y < 2], bench.y[bench.y < 2])
    assert set(method.predict(bench.X_test)) <= {0, 1}


def test_discriminants_and_ridges_have_what_all_training_rows_choose(bench, scale):
    for name, settings in {
        "classwise_lda": {"shares"},
        "random_fourier_discriminant": {"gamma", "shrinkage"},
        "fly_ridge_10000": {"alpha"},
    }.items():
        baseline = make_baseline(name, bench, scale, normalize=True)
        params = baseline.make(1).get_params()
        assert not {setting for setting in settings if params[setting] == "auto"}, name
        assert not baseline.by_batches
    assert (params["projection"], params["top_share"], params["n_components"]) == ("sparse", 0.3, 10000)


def test_slow_methods_are_measured_on_request_only():
    methods = Baselines(embeddings="own", keys="keys", stream=SETTINGS["stream"]).methods
    assert set(BASELINES) - set(methods) == set(ON_REQUEST)
    assert not any(method.endswith("10000") for method in methods)


def test_an_unknown_method_is_refused(bench, scale):
    with pytest.raises(ValueError, match=r"'svm' is not a baseline; expected one of pipeline\.config\.BASELINES"):
        make_baseline("svm", bench, scale, normalize=True)


def test_file_holds_the_tables_of_all_methods_and_the_same_bytes_again(tmp_path, paths, capsys):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert run_stage(tmp_path / name, paths, methods=["nearest_class_mean", "mlp"]) == 0
        written.append((tmp_path / name / "tables.json").read_bytes())
    assert written[0] == written[1]
    tables = json.loads(written[0])
    assert list(tables["metrics"]) == ["nearest_class_mean", "mlp"]
    seconds = json.loads((tmp_path / "a/timings.json").read_text())
    assert set(seconds["mlp"]) == {"choose", "fit", "predict_1000", "prequential"}
    assert "[baselines pets] final accuracy: nearest_class_mean" in capsys.readouterr().err


def test_cache_without_test_images_is_refused(tmp_path, paths, capsys):
    write_cache(tmp_path / "c.h5", header("pets"), {"train": split(16, 0)})
    assert run_stage(tmp_path, (tmp_path / "c.h5", paths[1])) == 1
    assert "expected a split named test" in capsys.readouterr().err


# Linear probe and MLP: scikit-learn's networks, trained well on each task and on nothing else.


@pytest.fixture(scope="module")
def four_classes():
    rng = np.random.default_rng(0)
    y = np.arange(240) % 4
    X = (10 * rng.normal(size=(4, 16))[y] + rng.normal(size=(240, 16))).astype(np.float32)
    return X, y


@pytest.mark.parametrize(
    "hidden", [pytest.param(None, id="linear", marks=pytest.mark.slow), pytest.param(32, id="mlp")]
)
def test_a_gradient_method_learns_each_task_and_forgets_those_before(hidden):
    rng, y = np.random.default_rng(0), np.arange(400) % 8
    places = [(1, 1), (3, 1), (3, 3), (1, 3), (3, 2), (2, 3), (1, 2), (2, 1)]  # the classes on a ring
    X = np.array(places)[y] + rng.normal(scale=0.1, size=(400, 2))
    method = GradientClassifier(8, hidden=hidden, learning_rate=0.03, epochs=150, scale=X)
    for task in ((0, 4), (1, 5), (2, 6), (3, 7)):
        rows = np.isin(y, task)
        method.partial_fit(X[rows], y[rows])
        assert (method.predict(X[rows]) == y[rows]).mean() > 0.95
    assert (method.predict(X) == y).mean() < 0.5


def test_a_gradient_method_makes_as_many_steps_on_few_rows_as_they_need(four_classes):
    X, y = four_classes
    steps = [
        GradientClassifier(4, learning_rate=0.01, epochs=1, min_steps=least, scale=X).partial_fit(X[:8], y[:8]).model.t_
        // 8
        for least in (200, 1)
    ]
    assert steps == [200, 1]


@pytest.mark.parametrize("hidden", [None, 32], ids=["linear", "mlp"])
def test_a_gradient_method_learns_all_classes_at_once(four_classes, hidden):
    X, y = four_classes
    method = GradientClassifier(4, hidden=hidden, learning_rate=0.01, scale=X).partial_fit(X, y)
    assert (method.predict(X) == y).mean() > 0.95


@pytest.mark.parametrize("hidden", [None, 8], ids=["linear", "mlp"])
def test_a_gradient_method_of_the_same_seed_has_the_same_bits(four_classes, hidden):
    X, y = four_classes
    first, second, other = (
        GradientClassifier(4, hidden=hidden, epochs=2, random_state=seed).partial_fit(X, y).model.coefs_[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_gradient_methods_scale_comes_from_the_rows_given_and_stays(four_classes):
    X, y = four_classes
    flat = X * 3 + 5
    flat[:, 0] = 1.0
    mean, deviation = GradientClassifier(4, scale=flat).partial_fit(X, y).scale
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(deviation[1:], flat[:, 1:].std(axis=0), rtol=1e-5)
    assert deviation[0] == pytest.approx(0.1 * flat.std(axis=0).mean(), rel=1e-4)  # and does not dominate the others


@pytest.fixture(scope="module")
def layered(bench):
    """The same rows, declared as two layers; the numbers of the second are a thousand times as large."""
    factors = np.repeat(np.float32([1, 1000]), [10, 14])
    return replace(bench, X=bench.X * factors, X_test=bench.X_test * factors, feature_blocks=(10, 14))


def test_each_layers_columns_have_unit_length_for_methods_that_want_it(layered, bench):
    rows = room.with_unit_blocks(layered)
    for X, whole in ((rows.X, layered.X), (rows.X_test, layered.X_test)):
        parts = np.split(whole, [10], axis=1)
        expected = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1)
        np.testing.assert_allclose(X, expected, rtol=1e-5)
    assert room.with_unit_blocks(bench) is bench


def test_no_layer_outweighs_another_unless_rows_are_taken_as_they_come(layered, scale):
    """Streaming LDA on rows whose layers were scaled to unit length by hand gives the same result."""
    entry = Baselines(**ENTRY | {"methods": ["streaming_lda", "nearest_class_mean", "linear_probe"]})
    found = measure_baselines(entry, layered, scale)
    by_hand = measure_baselines(entry, replace(room.with_unit_blocks(layered), feature_blocks=None), scale)
    for name in ("streaming_lda", "nearest_class_mean"):
        np.testing.assert_array_equal(found[name].predictions, by_hand[name].predictions)
    plain = measure_baselines(entry, replace(layered, feature_blocks=None), scale)
    np.testing.assert_array_equal(found["linear_probe"].predictions, plain["linear_probe"].predictions)
    entry = entry.model_copy(update={"normalize": False, "methods": ["nearest_class_mean"]})
    as_is = [measure_baselines(entry, rows, scale) for rows in (layered, replace(layered, feature_blocks=None))]
    np.testing.assert_array_equal(*(one["nearest_class_mean"].predictions for one in as_is))
