"""DKVBClassifier: guarantees beyond scikit-learn's contract, and errors of earlier implementations that it avoids."""

import copy

import dask.array as da
import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from models import by_codes, codes_of, encoder_of, flat, placed
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler

from dkvb_estimator import Codes, DKVBClassifier, KeyEncoder, save_model
from dkvb_estimator._validation import GRADIENT, MOVED

SOLVERS = ["joint", "counts", "ridge", "sgd"]


def small(**settings):
    return flat(**({"n_heads": 6, "n_keys": 16, "key_dim": 3, "random_state": 0} | settings))


def frozen(model):
    return encoder_of(model).projection_.tobytes() + encoder_of(model).keys_.tobytes()


def pooled(model, X):
    """Return the oracle's logits for the model's own projection, keys and values."""
    rows = oracle.normalize(X) if model.encoder_.normalize else X
    codes = oracle.nearest(
        oracle.project(rows, encoder_of(model).projection_),
        encoder_of(model).keys_,
        codes_of(model, X).shape[2],
        model.key_counts_ > 0,
    )
    return oracle.pool(codes, model.values_)


# Equal to the oracle


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("n_selected", [1, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_logits_equal_the_oracle(blobs, solver, n_selected, normalize):
    X, y = blobs
    model = small(solver=solver, n_selected=n_selected, normalize=normalize, learning_rate=30).fit(X[:60], y[:60])
    np.testing.assert_allclose(model.decision_function(X[60:90]), pooled(model, X[60:90]), atol=1e-5)


def test_counted_values_equal_the_oracle(blobs):
    X, y = blobs
    model = small(solver="counts", n_selected=2).fit(X, y)
    table = oracle.counts((6, 16, 5), codes_of(model, X), y, np.ones(len(y)))
    np.testing.assert_array_equal(model.key_counts_, table.sum(axis=2))
    kernel = oracle.sharing(encoder_of(model).keys_, table.sum(axis=2) > 0, encoder_of(model)._codebook.reaches, 32)
    ratios = oracle.class_ratios(table, model._prior().coordinates)
    expected = oracle.counts_to_values(kernel @ table, np.bincount(y), 2, model.smoothing, ratios)
    np.testing.assert_allclose(model.values_, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [20, 240])  # fewer rows than features, and more
@pytest.mark.parametrize("n_selected", [1, 2])
@pytest.mark.parametrize("solver", ["joint", "ridge"])
def test_jointly_solved_values_equal_the_oracle(blobs, solver, n_selected, n):
    X, y = blobs
    model = placed(small(solver=solver, n_selected=n_selected), X).partial_fit(X[:n], y[:n])
    prior, samples = model._prior(), (codes_of(model, X[:n]), y[:n], np.ones(n))
    expected = oracle.joint_values(prior.table, prior.steps, samples, 5, model.mixture_)
    np.testing.assert_allclose(model.values_, expected, atol=1e-4 * np.abs(expected).max())


def test_one_sgd_step_with_all_classes_declared_equals_the_oracle(blobs):
    X, y = blobs
    model = placed(small(solver="sgd", batch_size=240), X).partial_fit(X, y, classes=range(5))
    expected = oracle.sgd_step(
        np.zeros((6, 16, 5)),
        codes_of(model, X),
        y,
        np.ones(240),
        learning_rate=0.3,
        batch_size=240,
        label_smoothing=0.1,
        clip_norm=1.0,
    )
    np.testing.assert_allclose(model.values_, expected, atol=1e-7)


# Errors of earlier implementations, each avoided


def test_outputs_have_one_column_per_class(blobs):
    X, y = blobs
    assert small(n_heads=7).fit(X, y).predict_proba(X[:4]).shape == (4, 5)


def test_a_code_depends_only_on_the_projection_of_its_own_head(blobs):
    X, _ = blobs
    model = placed(small(), X)
    other = copy.deepcopy(model)
    encoder_of(other).projection_[:, 1:] = 7
    np.testing.assert_array_equal(codes_of(other, X)[:, 0], codes_of(model, X)[:, 0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_values_learn(blobs, solver):
    X, y = blobs
    model = placed(small(solver=solver), X)
    before = frozen(model)
    model.partial_fit(X, y)
    assert frozen(model) == before
    assert model.values_.size == 6 * 16 * 5


@pytest.mark.parametrize("solver", SOLVERS)
def test_projection_and_keys_do_not_move_after_partial_fit(blobs, solver):
    X, y = blobs
    model = small(solver=solver).partial_fit(X[:100], y[:100])
    before = frozen(model)
    for label in (4, 0, 2):
        model.partial_fit(9 * X[y == label] + 5, y[y == label])
        model.predict(X)
    assert frozen(model) == before


def test_a_new_process_predicts_the_same_from_a_file(blobs, tmp_path, elsewhere):
    X, y = blobs
    model = small(solver="sgd", learning_rate=100.0).fit(X, y)
    save_model(model, tmp_path / "model.npz")
    np.save(tmp_path / "X.npy", X)
    elsewhere(
        f"import numpy as np; from dkvb_estimator import load_model; folder = {str(tmp_path)!r}\n"
        "np.save(folder + '/p.npy', load_model(folder + '/model.npz').predict_proba(np.load(folder + '/X.npy')))"
    )
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), model.predict_proba(X))


@pytest.mark.parametrize("key_dim", [1, 5, 30])
def test_keys_may_have_other_dimensions_than_features(blobs, key_dim):
    X, y = blobs
    assert encoder_of(small(key_dim=key_dim).fit(X, y)).keys_.shape == (6, 16, key_dim)


def test_a_head_of_a_chunk_reads_all_its_features(blobs):
    X, _ = blobs
    model = placed(small(n_heads=4, key_dim=3, projection="chunk", normalize=False), X)
    expected = oracle.nearest(X.reshape(len(X), 4, 3), encoder_of(model).keys_, 1)
    np.testing.assert_array_equal(codes_of(model, X), expected)


def test_columns_of_the_projection_have_unit_length(blobs):
    X, _ = blobs
    lengths = np.linalg.norm(encoder_of(placed(small(), X)).projection_.astype(np.float64), axis=0)
    np.testing.assert_allclose(lengths, np.ones((6, 3)), rtol=1e-6)


def test_keys_are_placed_where_the_data_is(blobs):
    X, _ = blobs
    report = encoder_of(placed(small(n_keys=32), X)).key_report_
    assert report["unused_share"] < 0.05
    assert report["n_rows"] == 240


def test_sgd_leaves_rows_that_were_never_hit_at_zero(blobs):
    X, y = blobs
    model = placed(small(solver="sgd"), X).partial_fit(X[:5], y[:5])
    assert not model.values_[model.key_counts_ == 0].any()
    assert model.values_[model.key_counts_ > 0].any()


def test_projection_keys_and_values_are_float32(blobs):
    model = small().fit(blobs[0].astype(np.float64), blobs[1])
    assert {encoder_of(model).keys_.dtype, model.values_.dtype, encoder_of(model).projection_.dtype} == {
        np.dtype(np.float32)
    }


def test_one_random_state_gives_one_model(blobs):
    first, second = (small(solver="sgd").fit(*blobs).predict_proba(blobs[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_random_state_gives_another_codebook(blobs):
    assert encoder_of(small(random_state=1).fit(*blobs)).fingerprint_ != encoder_of(small().fit(*blobs)).fingerprint_


# Masking


def test_unused_keys_cannot_change_logits(blobs):
    X, y = blobs
    model = placed(small(n_selected=3, n_keys=64), X).partial_fit(X[:20], y[:20])
    before, used = model.decision_function(X), model.key_counts_ > 0
    assert not used.all()
    values = model.values_.copy()
    values[~used] = 1e6
    model._scratch.drop("table")
    model._scratch.get("table", lambda: torch.from_numpy(values))
    np.testing.assert_array_equal(model.decision_function(X), before)


def test_a_query_snaps_to_the_only_used_key_however_far():
    X = np.float32([[0], [1], [2], [100]])
    model = placed(small(n_heads=1, n_keys=4, projection="identity", key_init="sample", normalize=False), X)
    model.partial_fit(X[3:], [7])
    assert model.predict(X).tolist() == [7, 7, 7, 7]
    np.testing.assert_array_equal(model.decision_function(X), np.broadcast_to(model.decision_function(X[3:]), (4, 1)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_samples_output_does_not_depend_on_its_batch(blobs, solver):
    X, y = blobs
    model = small(solver=solver, n_selected=2).fit(X[:100], y[:100])
    alone = np.concatenate([model.decision_function(row[None]) for row in X[100:110]])
    np.testing.assert_allclose(model.decision_function(X)[100:110], alone, atol=1e-6)


def test_predicting_counts_nothing(blobs):
    X, y = blobs
    model = small().fit(X[:50], y[:50])
    before = model.key_counts_.copy()
    model.predict(X)
    np.testing.assert_array_equal(model.key_counts_, before)


# Learning


def test_with_sgd_unvisited_value_rows_keep_every_bit(blobs):
    X, y = blobs
    model = placed(small(solver="sgd", learning_rate=50.0, n_keys=64), X).partial_fit(X[:100], y[:100])
    before, hits = model.values_.copy(), model.key_counts_.copy()
    model.partial_fit(X[100:110], y[100:110])
    rest = model.key_counts_ == hits
    assert rest.any()
    assert (model.values_ != before).any()
    np.testing.assert_array_equal(model.values_[rest].view(np.uint32), before[rest].view(np.uint32))


def test_with_counts_classes_learned_first_are_still_known_at_the_end(blobs):
    X, y = blobs
    model = placed(small(n_heads=32, n_keys=32), X)
    for label in (3, 1, 4, 0, 2):
        model.partial_fit(X[y == label], y[y == label])
    assert (model.predict(X[y == 3]) == 3).mean() > 0.9


def test_classes_stay_sorted_and_columns_follow_when_a_label_sorts_in_between(blobs):
    X, y = blobs
    for solver in SOLVERS:
        model = placed(small(solver=solver, learning_rate=100.0), X)
        for label in (3, 1, 4, 0, 2):
            model.partial_fit(X[y == label], y[y == label])
        assert model.classes_.tolist() == [0, 1, 2, 3, 4]
        assert model.class_counts_.tolist() == [48] * 5


def test_declared_classes_have_columns_before_they_are_seen(blobs):
    X, y = blobs
    model = placed(small(), X).partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 9])
    assert model.predict_proba(X).shape == (240, 3)
    assert set(model.predict(X)) <= {0, 1}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "names", [["ape", "bee", "cat", "dog", "eel"], [-5, 0, 7, 8, 10**12], [0.0, 1.0, 2.0, 3.0, 7.0]]
)
def test_labels_of_any_one_type_come_back(blobs, solver, names):
    X, y = blobs
    labels = np.array(names)[y]
    model = small(solver=solver).fit(X, labels)
    assert model.classes_.tolist() == sorted(names)
    assert model.predict(X).dtype == labels.dtype


def test_longer_text_labels_later_are_not_cut(blobs):
    X, _ = blobs
    model = placed(small(), X).partial_fit(X[:20], ["a", "b"] * 10).partial_fit(X[20:40], ["elephant"] * 20)
    assert model.classes_.tolist() == ["a", "b", "elephant"]


@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_rows_of_weight_zero_are_as_if_never_given(blobs, solver):
    X, y = blobs
    weights = (np.arange(240) < 150).astype(float)
    model = small(solver=solver).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(model.predict_proba(X), small(solver=solver).fit(X[:150], y[:150]).predict_proba(X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_learning_codes_equals_learning_embeddings(blobs, solver):
    X, y = blobs
    rows, coded = (placed(small(solver=solver), X) for _ in range(2))
    rows.partial_fit(X, y)
    by_codes(coded, "partial_fit", codes_of(coded, X), y)
    np.testing.assert_array_equal(coded.values_, rows.values_)


def test_codes_of_a_wider_unsigned_type_learn_the_same_values(blobs):
    X, y = blobs
    model, twin = (placed(small(solver="ridge", n_selected=2), X) for _ in range(2))
    codes = codes_of(model, X)
    by_codes(by_codes(model, "partial_fit", codes, y), "partial_fit", codes, y)
    by_codes(by_codes(twin, "partial_fit", codes, y), "partial_fit", codes.astype(np.uint32), y)
    np.testing.assert_array_equal(twin.values_, model.values_)


def test_epochs_do_not_multiply_hits(blobs):
    X, y = blobs
    model = placed(small(solver="sgd", partial_fit_epochs=3), X).partial_fit(X, y)
    assert model.key_counts_.sum() == 240 * 6
    assert model.n_iter_ == 3
    assert small(solver="sgd", max_iter=4, partial_fit_epochs=3).fit(X, y).n_iter_ == 4


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_more_epochs_take_more_steps(blobs, n_epochs):
    X, y = blobs
    model = placed(small(solver="sgd", partial_fit_epochs=n_epochs), X)
    by_codes(model, "partial_fit", codes_of(model, X), y)
    once = placed(small(solver="sgd"), X).partial_fit(X, y)
    assert (np.abs(model.values_).sum() > 2 * np.abs(once.values_).sum()) == (n_epochs == 3)


def test_counted_hits_are_integers_until_a_weight_arrives(blobs):
    X, y = blobs
    model = small().fit(X, y)
    assert model.key_counts_.dtype.kind == "u"
    assert model.partial_fit(X, y, sample_weight=np.full(240, 0.5)).key_counts_.sum() == 1.5 * 240 * 6


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_class_of_weight_zero_leaves_everything_finite(blobs, solver):
    X, y = blobs
    model = small(solver=solver, class_weight={0: 0.0}).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_classes_all_of_weight_zero_are_refused(blobs, solver):
    X, y = blobs
    model = small(solver=solver, class_weight=dict.fromkeys(range(5), 0.0))
    with pytest.raises(ValueError, match="every learned class weight zero; expected at least one positive weight"):
        model.fit(X, y).predict(X)


# Keys


def test_fit_keeps_the_keys_of_a_frozen_encoder(blobs):
    X, y = blobs
    model = placed(small(), X[:100])
    before = frozen(model)
    assert frozen(model.fit(X[100:], y[100:])) == before


def test_fit_places_keys_anew_from_its_rows_unless_they_are_frozen(blobs):
    X, y = blobs
    model = small().fit(X[:100], y[:100])
    assert frozen(model.fit(X[100:], y[100:])) == frozen(small().fit(X[100:], y[100:]))
    assert not hasattr(model.encoder, "_codebook")


def test_a_frozen_encoder_that_is_fitted_again_changes_no_model(blobs):
    X, y = blobs
    model = placed(small(), X[:100]).partial_fit(X, y)
    before = model.encoder_.fingerprint_
    model.encoder.estimator.fit(X[100:])
    assert model.encoder_.fingerprint_ == before
    with pytest.raises(ValueError, match=r"encoder has fingerprint_ .*expected the same keys.*Set it back"):
        model.predict(X)
    assert model.fit(X, y).encoder_.fingerprint_ != before


def test_fit_after_partial_fit_forgets_what_was_learned(blobs):
    X, y = blobs
    again = small().partial_fit(X, y).fit(X[y < 2], y[y < 2])
    assert again.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(again.predict_proba(X), small().fit(X[y < 2], y[y < 2]).predict_proba(X))


def test_fitting_an_encoder_again_replaces_its_keys(blobs):
    X, _ = blobs
    again, once = small().encoder.fit(X[:100]), small().encoder.fit(X[100:])
    again.transform(X)
    assert again.fit(X[100:]).fingerprint_ == once.fingerprint_
    np.testing.assert_array_equal(again.transform(X), once.transform(X))


def test_a_small_first_batch_warns_once_with_both_numbers(blobs):
    X, y = blobs
    model = small()
    with pytest.warns(
        UserWarning,
        match=r"X has 5 distinct rows for 16 keys .*Fit a KeyEncoder on more .*FrozenEstimator\(encoder\)",
    ) as caught:
        model.partial_fit(X[:5], y[:5]).partial_fit(X[5:10], y[5:10])
    assert len(caught) == 1


def test_torch_tensors_come_in_and_arrays_go_out(blobs):
    X, y = blobs
    model = small().fit(torch.from_numpy(X), torch.from_numpy(y))
    assert isinstance(model.predict(torch.from_numpy(X)), np.ndarray)
    np.testing.assert_array_equal(model.predict_proba(torch.from_numpy(X)), small().fit(X, y).predict_proba(X))


@pytest.mark.parametrize("projection", ["gaussian", "sparse"])
def test_every_projection_learns(blobs, projection):
    X, y = blobs
    assert small(projection=projection, n_heads=24).fit(X, y).score(X, y) > 0.9


# Numbers


@pytest.mark.filterwarnings("ignore:X has .* distinct rows")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_extreme_scales_give_no_nan(blobs, scale, normalize, solver):
    X, y = blobs
    model = small(solver=solver, normalize=normalize, n_selected=2).fit(X * np.float32(scale), y)
    assert np.isfinite(encoder_of(model).keys_).all()
    assert np.isfinite(model.predict_proba(X * np.float32(scale))).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_normalized_model_does_not_see_the_scale(blobs, scale):
    X, y = blobs
    assert small(n_heads=24).fit(X * np.float32(scale), y).score(X * np.float32(scale), y) > 0.9


def test_an_offset_of_a_thousand_costs_no_accuracy(blobs):
    X, y = blobs
    plain, moved = (small(n_heads=24, normalize=False).fit(rows, y).score(rows, y) for rows in (X, X + 1000))
    assert moved > plain - 0.05


def test_a_wide_identity_head_survives_numbers_beyond_the_clipping_limit():
    rng = np.random.default_rng(0)
    X = (1e30 * rng.standard_normal((60, 400))).astype(np.float32)
    model = small(n_heads=1, projection="identity", normalize=False, n_selected=2).fit(X, np.arange(60) % 2)
    assert np.isfinite(model.predict_proba(X)).all()


def test_zero_rows_are_welcome(blobs):
    X, y = blobs
    model = small().fit(np.where(y[:, None] == 0, np.float32(0), X), y)
    assert np.isfinite(model.predict_proba(np.zeros((2, 12)))).all()


# Errors: what is wrong, what is expected, what to do


def test_predicting_before_learning_is_refused(blobs):
    with pytest.raises(NotFittedError, match=r"not fitted yet. Call 'fit'"):
        small().predict(blobs[0])
    with pytest.raises(NotFittedError, match=r"not fitted yet. Call 'fit'"):
        placed(small(), blobs[0]).predict(blobs[0])


def test_a_frozen_encoder_without_keys_is_refused(blobs):
    model = DKVBClassifier(FrozenEstimator(KeyEncoder(6, 16, 3)))
    for method in ("fit", "partial_fit"):
        with pytest.raises(
            NotFittedError, match=r"no keys, which FrozenEstimator needs; expected a fitted encoder. Call fit first"
        ):
            getattr(model, method)(*blobs)


@pytest.mark.parametrize("encoder", [3, "precompute", StandardScaler(), KeyEncoder])
def test_what_is_no_encoder_is_refused(blobs, encoder):
    with pytest.raises(TypeError, match=r"encoder=.* is a \w+; expected a KeyEncoder, .*Set it with set_params"):
        DKVBClassifier(encoder).fit(*blobs)


def test_a_frozen_transformer_of_another_kind_is_refused(blobs):
    with pytest.raises(
        TypeError,
        match=r"encoder is a FrozenEstimator of a StandardScaler; expected .* of a KeyEncoder. Pass Frozen",
    ):
        DKVBClassifier(FrozenEstimator(StandardScaler().fit(blobs[0]))).fit(*blobs)


@pytest.mark.parametrize("name", MOVED)
def test_parameters_of_earlier_releases_are_refused_with_their_new_place(name):
    with pytest.raises(TypeError, match=rf"{name}=3 is a parameter of an earlier release; expected .*{name}") as caught:
        DKVBClassifier(**{name: 3})
    assert ("solver_params" in str(caught.value)) == (name in GRADIENT)
    assert ("KeyEncoder" in str(caught.value)) == (name not in GRADIENT)


def test_another_number_of_features_is_refused(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="X has 11 features, but DKVBClassifier is expecting 12 features"):
        small().fit(X, y).predict(X[:, :11])


def test_learning_another_number_of_features_is_refused(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="X has 11 features, but DKVBClassifier is expecting 12 features"):
        placed(small(), X).fit(X[:, :11], y)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(blobs, value):
    X, y = blobs
    X = X.copy()
    X[3, 4] = value
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        small().fit(X, y)


def test_labels_of_mixed_types_are_refused(blobs):
    X, _ = blobs
    with pytest.raises((TypeError, ValueError), match=r"(?i)label|type|str"):
        small().fit(X[:20], np.array([1, "a"] * 10, dtype=object))


def test_text_labels_after_numbers_are_refused_and_change_nothing(blobs):
    X, y = blobs
    model = small().partial_fit(X, y)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match=r"y holds .*; expected labels of one type. Convert y"):
        model.partial_fit(X, y.astype(str))
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_weights_that_are_all_zero_are_refused(blobs):
    X, y = blobs
    with pytest.raises(
        ValueError, match=r"sample_weight is zero for all 240 samples; expected at least one.*Pass a positive weight"
    ):
        small().fit(X, y, sample_weight=np.zeros(240))


def test_negative_weights_are_refused(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match=r"(?i)negative"):
        small().fit(X, y, sample_weight=-np.ones(240))


def test_chunks_that_do_not_fill_the_features_are_refused(blobs):
    with pytest.raises(ValueError, match=r"reads 18 features; expected 12. Choose n_heads × key_dim = 12"):
        small(projection="chunk").fit(*blobs)


def test_more_selected_keys_than_keys_are_refused(blobs):
    with pytest.raises(
        ValueError, match=r"n_selected=9 is not valid; expected at most n_keys=8. Set it with set_params"
    ):
        small(n_keys=8, n_selected=9).fit(*blobs)


def test_more_keys_than_codes_can_name_are_refused(blobs):
    with pytest.raises(ValueError, match=r"n_keys=65537 is not valid; expected .* ≤ 65,536. Set it with set_params"):
        small(n_keys=65_537).fit(*blobs)


def test_codes_of_another_layout_are_refused(blobs):
    model = placed(small(), blobs[0])
    with pytest.raises(ValueError, match=r"codes have shape \(2, 5\); expected \(n, 6\), 1 per head. Encode again"):
        by_codes(model, "partial_fit", np.zeros((2, 5, 1), np.uint8), [0, 1])


def test_codes_of_other_keys_are_refused_once_learned(blobs):
    X, y = blobs
    one, other = (KeyEncoder(6, 16, 3, random_state=seed).fit(X) for seed in (0, 1))
    model = DKVBClassifier("precomputed").fit(one.transform(X), y)
    for call in (lambda: model.predict(other.transform(X)), lambda: model.partial_fit(other.transform(X), y)):
        with pytest.raises(
            ValueError, match=r"X holds codes of an encoder with fingerprint_ \w{12}; expected \w{12}, .* Encode"
        ):
            call()


def test_codes_without_their_encoder_are_refused_where_they_are_needed_for_it(blobs):
    X, y = blobs
    encoder = KeyEncoder(6, 16, 3, random_state=0).fit(X)
    codes = np.asarray(encoder.transform(X))
    with pytest.raises(ValueError, match=r"X is a ndarray without an encoder, which .*; expected Codes.*Codes.of"):
        DKVBClassifier("precomputed").fit(codes, y)
    model = DKVBClassifier("precomputed").fit(Codes.of(codes, encoder), y)
    np.testing.assert_array_equal(model.predict(codes), model.predict(encoder.transform(X)))


def test_keys_of_another_encoder_after_learning_are_refused(blobs):
    X, y = blobs
    model = placed(small(), X).fit(X, y)
    placed(model.set_params(encoder=KeyEncoder(6, 16, 3, random_state=1)), X)
    with pytest.raises(ValueError, match=r"encoder has fingerprint_ .*this model was fitted with .*Set it back"):
        model.partial_fit(X, y)


def test_refused_settings_leave_a_learned_model_as_it_was(blobs):
    X, y = blobs
    model = small().fit(X, y)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.fit(np.full((10, 12), np.nan), np.zeros(10))
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_a_solver_changed_after_learning_is_refused_by_name(blobs):
    X, y = blobs
    model = small().fit(X, y).set_params(solver="ridge")
    with pytest.raises(ValueError, match="solver"):
        model.partial_fit(X, y)


@pytest.mark.parametrize("change", [{"encoder__normalize": False}, {"encoder__n_selected": 3}, {"solver": "sgd"}])
def test_a_setting_that_keys_or_values_rest_on_is_refused_once_changed(blobs, change):
    X, y = blobs
    model = small().fit(X, y).set_params(**change)
    with pytest.raises(ValueError, match=r"was set after fitting with .* Set it back, or fit clone"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="expected the same value"):
        model.predict(X)
    assert model._learned.n_samples == 240


@pytest.mark.parametrize("name", ["n_heads", "n_keys", "key_dim"])
def test_a_layout_changed_after_keys_were_placed_is_refused_or_waits_for_new_keys(blobs, name):
    X, y = blobs
    model = placed(small(), X)
    model.encoder.estimator.set_params(**{name: 99})
    with pytest.raises(ValueError, match=f"{name}=99 was set after fitting with"):
        model.partial_fit(X, y)
    model.encoder.estimator.fit(X)
    assert getattr(model.partial_fit(X, y).encoder_, name) == 99


@pytest.mark.parametrize("solver", SOLVERS)
def test_calibrated_probabilities_are_those_of_the_best_temperature(blobs, solver):
    X, y = blobs
    model = small(solver=solver, learning_rate=30).fit(X[:120], y[:120])
    before, predicted = model.predict_proba(X[120:]), model.predict(X)

    def loss(shares):
        """Return the loss of all rows, plus that of a pseudo-sample of unknown class."""
        return -np.log(shares[np.arange(120), y[120:]]).sum() - np.log(shares).mean()

    model.calibrate(X[120:], y[120:])
    assert loss(model.predict_proba(X[120:])) <= loss(before) + 1e-3
    np.testing.assert_array_equal(model.predict(X), predicted)
    assert model.temperature_ > 0


def test_a_temperature_goes_with_the_values_it_was_chosen_for(blobs):
    X, y = blobs
    model = small().fit(X[:120], y[:120]).calibrate(X[120:], y[120:])
    assert model.temperature_ != 1
    assert model.partial_fit(X[120:], y[120:]).temperature_ == 1


def test_calibrating_with_an_unknown_label_is_refused(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match=r"y holds 9, which is not among the 5 learned classes"):
        small().fit(X, y).calibrate(X, np.where(y == 0, 9, y))


@pytest.mark.parametrize("solver", ["joint", "ridge"])
def test_strange_samples_are_less_usual(blobs, solver):
    X, y = blobs
    model = small(solver=solver, normalize=False).fit(X[:200], y[:200])
    usual, strange = model.score_samples(X[200:]), model.score_samples(np.random.default_rng(0).permuted(X, axis=1))
    assert usual.shape == (40,)
    assert np.median(usual) > np.median(strange)


def test_many_classes_are_read_without_a_table(blobs, monkeypatch):
    X, y = blobs
    settings = {"solver": "counts", "n_selected": 2}
    expected = small(**settings).fit(X[:60], y[:60]).predict_proba(X)
    monkeypatch.setattr("dkvb_estimator._values.solvers.TABLE_LIMIT_BYTES", 0)
    monkeypatch.setattr("dkvb_estimator._classifier.solve_values", None)
    np.testing.assert_allclose(small(**settings).fit(X[:60], y[:60]).predict_proba(X), expected, atol=1e-6)


ROWS = np.random.default_rng(3).standard_normal((30, 6))
ODD = {
    "one sample": (ROWS[:1], np.zeros(1, int)),
    "one class": (ROWS, np.zeros(30, int)),
    "fewer samples than keys": (ROWS[:5], np.arange(5) % 2),
    "constant features": (np.ones((30, 6)), np.arange(30) % 3),
    "zeros": (np.zeros((30, 6)), np.arange(30) % 3),
    "one row that differs": (np.where(np.arange(30)[:, None] == 7, ROWS, 1.0), np.arange(30) % 3),
    "one sample a class": (ROWS[:18], np.arange(18)),
    "duplicates of different labels": (ROWS[:6].repeat(5, axis=0), np.arange(30) % 5),
    "two features": (ROWS[:, :2], np.arange(30) % 2),
    "duplicate samples": (ROWS[:3].repeat(10, axis=0), np.arange(3).repeat(10)),
    "float16": (ROWS.astype(np.float16), np.arange(30) % 3),
    "float64 of large scale": (1e30 * ROWS, np.arange(30) % 3),
    "integers": ((10 * ROWS).astype(int), np.arange(30) % 3),
    "one feature": (ROWS[:, :1], np.arange(30) % 3),
}


@pytest.mark.filterwarnings("ignore:X has .* distinct rows")
@pytest.mark.parametrize(
    "solver", ["joint", "counts", *(pytest.param(solver, marks=pytest.mark.slow) for solver in ("ridge", "sgd"))]
)
@pytest.mark.parametrize("name", ODD)
def test_odd_data_is_learned_in_one_or_many_parts_with_finite_answers(solver, name):
    X, y = ODD[name]
    model = small(solver=solver, n_selected=2).fit(X, y)
    parts = placed(small(solver=solver, n_selected=2), X)
    for row in range(len(X)):
        parts.partial_fit(X[row : row + 1], y[row : row + 1])
    for each in (model, parts):
        shares = each.predict_proba(X)
        assert np.isfinite(shares).all()
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
        assert set(each.predict(X)) <= set(y)
        assert np.isfinite(each.score_samples(X)).all()


def test_more_key_dimensions_than_features_are_allowed_for_gaussian_heads():
    X = ROWS[:, :2]
    assert encoder_of(small(key_dim=5).fit(X, np.arange(30) % 3)).keys_.shape == (6, 16, 5)
    with pytest.raises(
        ValueError, match=r"projection='chunk' with n_heads=6 and key_dim=5 reads 30 features; expected 2"
    ):
        small(key_dim=5, projection="chunk").fit(X, np.arange(30) % 3)


def test_a_frozen_encoder_knows_the_names_of_its_columns(blobs):
    X, y = blobs
    named = pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    frozen = FrozenEstimator(small().encoder.fit(named))
    with pytest.raises(ValueError, match="feature names should match"):
        DKVBClassifier(frozen).fit(named[named.columns[::-1]], y)
    assert DKVBClassifier(frozen).fit(named, y).feature_names_in_.tolist() == named.columns.tolist()


@pytest.mark.parametrize("remember", [True, False])
def test_declared_classes_without_samples_are_not_predicted_anywhere(blobs, remember):
    X, y = blobs
    model = placed(small(remember=remember), X).partial_fit(X, y, classes=range(-3, 9))
    noise = 5 * np.random.default_rng(0).standard_normal((2000, X.shape[1])).astype(np.float32)
    assert set(model.predict(np.concatenate([X, X.mean(axis=0, keepdims=True), noise]))) <= set(y.tolist())


def test_scores_of_dask_rows_need_no_file_of_codes(blobs, tmp_path):
    X, y = blobs
    model = small(codes_dir=str(tmp_path)).fit(X, y)
    lazy = model.score_samples(da.from_array(X, chunks=(50, -1)))
    np.testing.assert_array_equal(lazy.compute(), model.score_samples(X))


def test_a_folder_for_codes_may_be_a_path(blobs, tmp_path):
    X, _ = blobs
    np.testing.assert_array_equal(
        KeyEncoder(3, 8, random_state=0, memory=tmp_path).fit_transform(X),
        KeyEncoder(3, 8, random_state=0).fit_transform(X),
    )
    with pytest.raises(ValueError, match="'memory' should be None, a string"):
        KeyEncoder(3, 8, memory=1).fit(X)
