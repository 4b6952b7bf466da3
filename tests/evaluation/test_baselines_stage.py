import json

import numpy as np
import pytest
import yaml
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from test_train import SETTINGS, command, header, split, write_two_caches

from dkvb_estimator.baselines import StreamingLDA
from pipeline.cache import open_cache, write_cache
from pipeline.config.streams import HEADS, ON_REQUEST, Rivals
from pipeline.evaluation import baselines as contenders
from pipeline.evaluation.baselines import make_contender
from pipeline.evaluation.loop import make_bench
from pipeline.stages import baselines as stage

QUICK = [head for head in HEADS if not head.endswith("000") or head.endswith("_2000")]
ENTRY = {"embeddings": "own", "keys": "keys", "stream": SETTINGS["stream"], "heads": QUICK}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_two_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def bench(paths):
    with open_cache(paths[0]) as own:
        return make_bench(own, Rivals(**ENTRY).stream)


@pytest.fixture(scope="module")
def scale(paths):
    with open_cache(paths[1]) as keys:
        return [keys.read("train")]


@pytest.fixture(scope="module")
def found(bench, scale):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contenders, "WIDEST_BY_BATCHES", 100)
        return stage.measure_rivals(Rivals(**ENTRY), bench, scale)


def run_stage(folder, paths, **changes):
    argv = command(folder, paths)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(tree | {"rivals": {"pets": ENTRY | changes}}))
    place = argv.index("--metrics")
    argv[place] = "--output"
    return stage.console.run(stage.main, stage.build_parser(), argv)


def test_every_head_meets_every_order(found):
    assert list(found) == QUICK
    assert {head: len(result.outcomes) for head, result in found.items()} == {
        head: 0 if head == "joint_linear_probe" else 2 for head in QUICK
    }


def test_every_head_learns_easy_classes(found):
    for head, result in found.items():
        for outcome in result.outcomes:
            assert np.diagonal(outcome.accuracy_matrix).mean() > 0.9, head
    remembering = set(QUICK) - {"linear_probe", "mlp", "joint_linear_probe"}
    assert all(found[head].outcomes[0].all_accuracy[-1] > 0.9 for head in remembering)


def test_costs_say_what_each_head_had_to_have(found):
    needing = {head for head, result in found.items() if result.facts["needs_classes"]}
    assert needing == {"linear_probe", "mlp", "joint_linear_probe", "gaussian_naive_bayes"}
    assert {
        head: result.facts["passes"] for head, result in found.items() if result.facts["passes"] > 1
    } == dict.fromkeys(("linear_probe", "mlp", "joint_linear_probe"), 20)
    bytes_of = {head: result.facts["state_bytes"] for head, result in found.items()}
    assert bytes_of["k_nearest_neighbours"] > 80 * 24 * 4
    assert bytes_of["nearest_class_mean"] < bytes_of["streaming_lda"] < bytes_of["random_projection_ridge_2000"]


def test_wide_ridge_is_not_solved_once_a_batch(found):
    assert found["random_projection_ridge_2000"].met is None
    assert found["streaming_lda"].met.shape == (2, 80)


def test_lda_tells_classes_not_yet_seen(found):
    assert found["streaming_lda"].facts["mahalanobis_auroc"] > 0.9
    assert "novelty" not in found["nearest_class_mean"].facts


def test_lda_has_the_shrinkage_that_all_training_rows_choose(bench, scale):
    chosen = StreamingLDA("auto", normalize=True).fit(bench.X, bench.y).shrinkage_
    assert make_contender("streaming_lda", bench, scale, normalize=True).make(1).shrinkage == chosen


@pytest.mark.parametrize("normalize", [True, False])
def test_neighbours_and_bayes_are_scikit_learns_whatever_the_batches(bench, scale, normalize):
    X, X_test = bench.X, bench.X_test
    if normalize:
        X, X_test = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, X_test))
    for name, theirs in (("k_nearest_neighbours", KNeighborsClassifier()), ("gaussian_naive_bayes", GaussianNB())):
        head = make_contender(name, bench, scale, normalize=normalize).make(0)
        for rows in np.array_split(np.arange(len(bench.X)), 3):
            head.partial_fit(bench.X[rows], bench.y[rows])
        expected = theirs.fit(X, bench.y).predict(X_test)
        assert (head.predict(bench.X_test) == expected).mean() > 0.97, name


def test_a_class_that_naive_bayes_has_not_met_is_never_answered(bench, scale):
    head = make_contender("gaussian_naive_bayes", bench, scale, normalize=False).make(0)
    head.partial_fit(bench.X[bench.y < 2], bench.y[bench.y < 2])
    assert set(head.predict(bench.X_test)) <= {0, 1}


def test_discriminants_and_ridges_have_what_all_training_rows_choose(bench, scale):
    for name, settings in {
        "classwise_lda": {"shares"},
        "random_fourier_discriminant": {"gamma", "shrinkage"},
        "fly_ridge_10000": {"alpha"},
    }.items():
        contender = make_contender(name, bench, scale, normalize=True)
        params = contender.make(1).get_params()
        assert not {setting for setting in settings if params[setting] == "auto"}, name
        assert not contender.by_batches
    assert (params["projection"], params["top_share"], params["n_components"]) == ("sparse", 0.3, 10000)


def test_slow_heads_are_measured_on_request_only():
    heads = Rivals(embeddings="own", keys="keys", stream=SETTINGS["stream"]).heads
    assert set(HEADS) - set(heads) == set(ON_REQUEST)
    assert not any(head.endswith("10000") for head in heads)


def test_an_unknown_head_is_refused(bench, scale):
    with pytest.raises(ValueError, match=r"'svm' is no head; one of pipeline\.records\.HEADS is expected"):
        make_contender("svm", bench, scale, normalize=True)


def test_file_holds_the_tables_of_all_heads_and_the_same_bytes_again(tmp_path, paths, capsys):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert run_stage(tmp_path / name, paths, heads=["nearest_class_mean", "mlp"]) == 0
        written.append((tmp_path / name / "metrics.json").read_bytes())
    assert written[0] == written[1]
    tables = json.loads(written[0])
    assert list(tables["metrics"]) == ["nearest_class_mean", "mlp"]
    seconds = json.loads((tmp_path / "a/timings.json").read_text())
    assert set(seconds["mlp"]) == {"choose", "fit", "predict_1000"}
    assert "[rivals pets] final accuracy: nearest_class_mean" in capsys.readouterr().err


def test_cache_without_test_images_is_refused(tmp_path, paths, capsys):
    write_cache(tmp_path / "c.h5", header("pets"), {"train": split(16, 0)})
    assert run_stage(tmp_path, (tmp_path / "c.h5", paths[1])) == 1
    assert "a split named test is expected" in capsys.readouterr().err
