"""Jointly solved values: exact sums, solutions that equal an oracle, a mixture chosen by held-out rows."""

import copy
import pickle

import dask.array as da
import numpy as np
import oracle
import pytest
import torch
from models import by_codes, codes_of, encoder_of, flat, placed
from sklearn.datasets import make_classification

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model
from dkvb_estimator._kernel import native
from dkvb_estimator._values import joint as _joint
from dkvb_estimator._values import solvers as _solvers
from dkvb_estimator._values.joint import (
    FewRows,
    Listed,
    ManyRows,
    Settings,
    Sums,
    choose,
    curved_scales,
    solve,
    sum_codes,
    sum_rows,
)
from dkvb_estimator._values.prior import EXACT_ROWS, Prior
from dkvb_estimator._values.solvers import are_judges
from dkvb_estimator._values.temperature import fit_shares

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
X, Y = (each[:400] for each in make_classification(
    800, 10, n_informative=6, n_redundant=2, n_classes=3, n_clusters_per_class=1, random_state=0))  # fmt: skip
X = X.astype(np.float32)
OTHERS = RNG.standard_normal((200, 10)).astype(np.float32)
SMALL = {"n_heads": 6, "n_keys": 16, "key_dim": 2, "normalize": False, "random_state": 0}
FEW, MANY = slice(0, 14), slice(0, 300)
"""Fewer rows than six tenths of the 24 features of six heads, and more."""


def started(**settings):
    return placed(flat(**SMALL | settings), OTHERS)


def rows(n, width=8, n_classes=4, weighted=False):
    rng = np.random.default_rng(n)
    labels = rng.integers(n_classes - 1, size=n)  # the last class has no rows
    features = (rng.integers(-50, 50, size=(n, width)) + 9 * labels[:, None]).clip(-63, 63).astype(np.int8)
    return Listed(features, labels, rng.uniform(0.5, 2, size=n) if weighted else np.ones(n))


def assert_same_bits(one, other):
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def assert_same_model(one, other):
    np.testing.assert_array_equal(one.classes_, other.classes_)
    np.testing.assert_array_equal(one.values_, other.values_)
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


# Sums


def test_sums_are_those_of_whole_numbers_to_the_bit():
    listed = rows(2 * EXACT_ROWS + 7)
    whole, F = sum_rows(listed, 4, CPU), listed.features.astype(np.int64)
    np.testing.assert_array_equal(whole.gram, F.T @ F)
    np.testing.assert_array_equal(whole.by_class, np.eye(4, dtype=np.int64)[listed.labels].T @ F)
    np.testing.assert_array_equal(whole.weights, np.bincount(listed.labels, minlength=4))


def test_the_largest_features_are_summed_exactly():
    listed = Listed(np.full((EXACT_ROWS, 3), 63, np.int8), np.zeros(EXACT_ROWS, int), np.ones(EXACT_ROWS))
    np.testing.assert_array_equal(sum_rows(listed, 1, CPU).gram, np.full((3, 3), EXACT_ROWS * 63.0**2))


def test_sums_do_not_depend_on_order_or_splits_and_undo_each_other():
    listed = rows(300)
    whole, order = sum_rows(listed, 4, CPU), RNG.permutation(300)
    parts = [sum_rows(listed.where(order[part]), 4, CPU) for part in (slice(0, 1), slice(1, 120), slice(120, 300))]
    assert_same_bits(parts[2].plus(parts[0]).plus(parts[1]), whole)
    assert_same_bits(whole.plus(parts[1], -1), parts[0].plus(parts[2]))


def test_weighted_sums_equal_a_direct_formula():
    listed = rows(90, weighted=True)
    found, weighted = sum_rows(listed, 4, CPU), listed.weights[:, None] * listed.features
    np.testing.assert_allclose(found.gram, listed.features.T @ weighted, rtol=1e-12)
    np.testing.assert_allclose(found.by_class, np.eye(4)[listed.labels].T @ weighted, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_half_of_a_product_is_computed_panel_by_panel(weighted, monkeypatch):
    monkeypatch.setattr(_joint, "PANEL", 3)  # the last panel is narrower
    listed = rows(90, weighted=weighted)
    gram = sum_rows(listed, 4, CPU).gram
    np.testing.assert_allclose(gram, (listed.weights[:, None] * listed.features).T @ listed.features, rtol=1e-12)
    np.testing.assert_allclose(gram, gram.T, rtol=1e-15)


def test_codes_are_summed_as_their_features():
    keys = RNG.standard_normal((3, 7, 2)).astype(np.float32)
    prior = Prior.of_keys(keys, keys.mean(axis=1), np.abs(keys).max(axis=(1, 2)))
    codes, labels = RNG.integers(7, size=(EXACT_ROWS + 9, 3, 1)).astype(np.uint8), RNG.integers(4, size=EXACT_ROWS + 9)
    ones = np.ones(len(codes))
    listed = Listed(prior.features(codes), labels, ones)
    assert_same_bits(sum_codes(codes.__getitem__, labels, ones, prior, 4, CPU), sum_rows(listed, 4, CPU))


# Solutions


def solved(listed, objective, penalty=1e-3, few=False, curvature=0.6):
    steps, settings = np.linspace(0.5, 2, listed.features.shape[1]), Settings((objective,), (curvature,), (penalty,))
    if few:
        source = FewRows(listed, np.zeros(len(listed.labels), dtype=bool), 4, CPU)
    else:
        source = ManyRows(sum_rows(listed, 4, CPU), Listed.none(len(steps)), CPU)
    return solve(source, Prior(np.zeros((1, 1, len(steps)), np.int8), steps), settings)


@pytest.fixture(params=["few classes", "many classes"])
def either_system(request, monkeypatch):
    """The system (k, k) of few classes, or the second factor (w, w) of many."""
    monkeypatch.setattr(_joint, "MANY_CLASSES", {"few classes": 1e9, "many classes": 0}[request.param])


@pytest.mark.usefixtures("either_system")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("objective", ["ridge", "discriminant"])
def test_solutions_equal_the_oracle(objective, weighted):
    listed, steps = rows(120, weighted=weighted), np.linspace(0.5, 2, 8)
    found = solved(listed, objective)
    (part,) = found.parts
    scale = oracle.scales(np.float64(listed.features), steps, listed.weights, 0.6, 1)
    solve_it = {"ridge": oracle.ridge, "discriminant": oracle.discriminant}[objective]
    weights, bias = solve_it(listed.features * scale, listed.labels, listed.weights, 4, 1e-3)
    np.testing.assert_allclose(found.weights, part.share * scale[:, None] * weights, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(found.bias, part.share * bias, rtol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("objective", ["ridge", "discriminant"])
def test_few_rows_and_many_rows_agree(objective, weighted):
    listed = rows(30, width=40, weighted=weighted)
    few, many = (solved(listed, objective, few=each) for each in (True, False))
    scores = [listed.features @ each.weights + each.bias for each in (few, many)]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5 * np.abs(scores[1]).max())


@pytest.mark.parametrize("factor", [1e-12, 1e12, 1e-300])
@pytest.mark.parametrize("few", [True, False])
def test_weights_of_any_unit_give_the_same(few, factor):
    listed = rows(30, weighted=True)
    one, other = (solved(each, "discriminant", few=few) for each in (
        listed, listed._replace(weights=factor * listed.weights)))  # fmt: skip
    np.testing.assert_allclose(other.weights, one.weights, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.bias, one.bias, rtol=1e-6)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("penalty", [1e-300, 1e300])
@pytest.mark.parametrize("objective", ["ridge", "discriminant"])
def test_any_penalty_gives_finite_numbers(objective, penalty, few):
    listed = rows(6, width=8)
    found = solved(listed._replace(features=np.repeat(listed.features[:3], 2, axis=0)), objective, penalty, few)
    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.bias).all()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_rows_that_do_not_differ_teach_the_shares_of_classes(few, weighted):
    listed = rows(20, weighted=weighted)
    listed = listed._replace(features=np.full((20, 8), 17, dtype=np.int8))
    found = solved(listed, "discriminant", few=few)
    per_class = np.bincount(listed.labels, listed.weights, minlength=4)
    assert found.parts == ()
    assert not found.weights.any()
    np.testing.assert_allclose(found.bias, np.log(oracle.class_shares(per_class)))


@pytest.mark.usefixtures("either_system")
def test_rows_that_differ_by_rounding_alone_teach_the_shares_of_classes_and_leave_each_other_out():
    listed = rows(20)._replace(features=np.full((20, 8), 17, dtype=np.int8))
    view = ManyRows(sum_rows(listed, 4, CPU), listed.where(np.arange(20) < 5), CPU).view(np.ones(8))
    for objective, scores in zip(("ridge", "discriminant"), view.whole.left_out(
            view.judges, 1e-3, ("ridge", "discriminant")), strict=True):  # fmt: skip
        found = view.whole.directions(1e-3, of_all=view.whole.of_all[objective])
        assert not found.Z.any()
        assert np.isfinite(scores).all()


def left_out(listed, penalty, few, dtype=torch.float64, objectives=("ridge", "discriminant")):
    """Return the leave-one-out scores of the first ten rows, and the scale of their features."""
    scale, judges = np.linspace(0.01, 0.1, listed.features.shape[1]), np.arange(len(listed.labels)) < 10
    source = FewRows(listed, judges, 4, CPU) if few else ManyRows(sum_rows(listed, 4, CPU), listed.where(judges), CPU)
    view = source.view(scale)
    return dict(zip(objectives, view.whole.left_out(view.judges, penalty, objectives, dtype), strict=True)), scale


@pytest.mark.usefixtures("either_system")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("few", "dtype"), [(True, torch.float64), (False, torch.float64), (False, torch.float32)])
@pytest.mark.parametrize("penalty", [1e-5, 1e-2])
def test_a_row_is_left_out_as_if_it_had_never_been_there(penalty, few, dtype, weighted):
    listed = rows(30, width=40, weighted=weighted) if few else rows(60, weighted=weighted)
    found, scale = left_out(listed, penalty, few, dtype)
    scaled = listed.features * scale

    def unit(kept):
        weights = listed.weights[kept]
        return weights @ np.square(scaled[kept] - np.average(scaled[kept], axis=0, weights=weights)).sum(axis=1)

    for objective, solve_it in (("ridge", oracle.ridge), ("discriminant", oracle.discriminant)):
        for row in range(10):
            others = np.arange(len(scaled)) != row
            same = penalty * unit(slice(None)) / unit(others)  # the penalty remains that of all rows
            weights, bias = solve_it(scaled[others], listed.labels[others], listed.weights[others], 4, same)
            expected = scaled[row] @ weights + bias
            np.testing.assert_allclose(found[objective][row], expected, atol=1e-4 * np.abs(expected).max())


def test_single_precision_chooses_where_rows_are_summed_and_gives_way_where_it_is_too_coarse():
    few, listed = rows(30, width=40), rows(60)
    scale, judges = np.linspace(0.01, 0.1, 8), np.arange(60) < 10
    assert FewRows(few, np.arange(30) < 10, 4, CPU).view(np.full(40, 0.1)).choosing == torch.float64
    view = ManyRows(sum_rows(listed, 4, CPU), listed.where(judges), CPU).view(scale)
    assert view.choosing == torch.float32
    assert view.whole._factor(1e-2, view.choosing).dtype == torch.float32
    twins = listed._replace(features=listed.features[:, [0, 0, 0, 0, 1, 1, 1, 1]])  # of rank two
    whole = ManyRows(sum_rows(twins, 4, CPU), twins.where(judges), CPU).view(scale).whole
    assert whole._factor(1e-10, torch.float32).dtype == torch.float64


def test_shares_have_three_digits():
    listed = rows(60)
    found = choose({0.6: ManyRows(sum_rows(listed, 4, CPU), listed, CPU).view(np.full(8, 0.01))}, Settings())
    assert found
    assert all(part.share == float(f"{part.share:.3g}") for part in found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("few", [False, True])
def test_rows_that_nothing_else_explains_are_left_out_with_finite_scores(few, dtype):
    listed = rows(30, width=40) if few else rows(60)
    listed = listed._replace(features=np.where(np.arange(40 if few else 8) == 0, listed.features, 0).astype(np.int8))
    listed.features[0] = 63
    found, _ = left_out(listed, 1e-300, few, dtype)
    assert all(np.isfinite(scores).all() for scores in found.values())


def test_the_first_rows_of_classes_that_have_others_choose(monkeypatch):
    labels, weights = np.array([0, 1, 1, 2, 2, 2]), np.array([1, 1, 1, 1e-300, 1, 1e300])
    assert are_judges(labels, weights, 3).tolist() == [False, True, True, True, True, False]
    monkeypatch.setattr(_solvers, "JUDGES", 2)
    assert are_judges(labels, weights, 3).tolist() == [False, True, True, False, False, False]


def test_more_classes_have_fewer_rows_that_choose(monkeypatch):
    monkeypatch.setattr(_solvers, "MAX_SCORES", 1800)
    labels = np.arange(4000) % 3
    assert [are_judges(labels, np.ones(4000), k).sum() for k in (3, 4)] == [600, 500]


def test_classes_of_one_row_each_take_the_usual_mixture():
    listed = Listed(np.diag(np.full(8, 40)).astype(np.int8), np.arange(8), np.ones(8))
    prior = Prior(np.zeros((1, 1, 8), np.int8), np.ones(8))
    judges = are_judges(listed.labels, listed.weights, 8)
    assert not judges.any()
    found = solve(FewRows(listed, judges, 8, CPU), prior, Settings())
    assert len(found.parts) == 2
    scores = listed.features @ found.weights + found.bias
    np.testing.assert_array_equal(scores.argmax(axis=1), np.arange(8))


# Choices


def test_shares_are_the_best_of_a_grid():
    labels = RNG.integers(3, size=200)
    tables = [2 * np.eye(3)[labels] + spread * RNG.standard_normal((200, 3)) for spread in (1.5, 3.0)]
    weights = RNG.uniform(0.5, 2, size=200)

    def loss(shares):
        likely = oracle.softmax(shares[0] * tables[0] + shares[1] * tables[1])
        return -(weights * np.log(likely[np.arange(200), labels])).sum() - np.log(likely).mean()

    best = loss(fit_shares(tables, labels, weights))
    assert best <= min(loss((a, b)) for a in np.linspace(0, 2, 41) for b in np.linspace(0, 2, 41)) + 1e-6


def test_a_table_that_misleads_has_no_share():
    labels = np.arange(60) % 3
    shares = fit_shares([np.eye(3)[labels], -np.eye(3)[(labels + RNG.integers(2, size=60)) % 3]], labels, np.ones(60))
    assert shares[0] > 0
    assert shares[1] == 0


def test_curves_have_their_part_of_the_spread():
    squares, steps = RNG.uniform(1, 9, size=8), RNG.uniform(0.5, 2, size=8)
    found = curved_scales(squares, Prior(np.zeros((1, 1, 8), np.int8), steps), (0.0, 0.6))
    for curvature, scale in found.items():
        spread = (squares * scale**2).reshape(2, 4).sum(axis=1)
        np.testing.assert_allclose(spread, [1, curvature**2])


def test_what_rows_choose_is_no_worse_than_any_single_solution_with_the_best_share():
    listed = rows(200)
    many = ManyRows(sum_rows(listed, 4, CPU), listed.where(np.arange(200) % 5 == 0), CPU)
    view = many.view(np.full(8, 0.01))
    judges, found = view.judges, choose({0.6: view}, Settings())
    labels, penalties = judges.labels.numpy(), {part.penalty for part in found}
    tables = {(name, penalty): view.whole.left_out(judges, penalty, (name,))[0] for name in ("ridge", "discriminant")
              for penalty in penalties | {1e-3}}  # fmt: skip

    def loss(scores):
        logs = np.log(oracle.softmax(scores.astype(float)))
        return -logs[np.arange(len(logs)), labels].sum() - logs.mean()  # includes a pseudo-sample of unknown class

    mixed = loss(sum(part.share * tables[part.objective, part.penalty] for part in found))
    for table in tables.values():
        (share,) = fit_shares([table], labels, judges.weights.numpy())
        assert mixed <= loss(share * table) + 1e-3


def test_settings_that_are_given_are_used():
    model = started(objective="discriminant", alpha=0.02, curvature=0.3).partial_fit(X, Y)
    (part,) = model.mixture_
    assert (part["objective"], part["penalty"], part["curvature"]) == ("discriminant", 0.02, 0.3)
    assert part["share"] > 0
    assert {part["objective"] for part in started(solver="ridge").partial_fit(X, Y).mixture_} == {"ridge"}
    assert started(solver="counts").partial_fit(X, Y).mixture_ == []
    other = started(solver="ridge").partial_fit(X, Y)
    assert_same_model(other, started(objective="ridge").partial_fit(X, Y))


def test_probabilities_of_unseen_rows_are_calibrated():
    rows_, labels = make_classification(1600, 10, n_informative=6, n_classes=3, flip_y=0.2, random_state=1)
    shares = (
        DKVBClassifier(KeyEncoder(32, 32, 2, random_state=0)).fit(rows_[:800], labels[:800]).predict_proba(rows_[800:])
    )
    sure, right = shares.max(axis=1), shares.argmax(axis=1) == labels[800:]
    bins = np.digitize(sure, np.linspace(0, 1, 11)[1:-1])
    error = sum(abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    assert error < 0.07


# The estimator


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("part", [FEW, MANY])
def test_decisions_are_the_mean_over_heads_of_values(part, pruned):
    model = started().partial_fit(X[part], Y[part])
    before = model.decision_function(X)
    if pruned:
        model.prune()
        np.testing.assert_allclose(model.decision_function(X), before, atol=1e-4)
    heads = X.astype(float) @ encoder_of(model).projection_.reshape(10, -1)
    codes = oracle.nearest(heads.reshape(-1, 6, 2)[:40], encoder_of(model).keys_, 1, model.key_counts_ > 0)
    np.testing.assert_allclose(model.decision_function(X[:40]), oracle.pool(codes, model.values_), atol=1e-4)


@pytest.mark.parametrize("part", [FEW, MANY])
@pytest.mark.parametrize("remember", [True, False])
def test_order_and_splits_change_no_bit(part, remember):
    rows_, labels = X[part], Y[part]
    order = RNG.permutation(len(rows_))
    other = started(remember=remember)
    for some in np.array_split(order, 4):
        other.partial_fit(rows_[some], labels[some])
        other.predict(X[:2])  # sums computed in between are only extended
    assert_same_model(other, started(remember=remember).partial_fit(rows_, labels))


@pytest.mark.parametrize("part", [FEW, MANY])
@pytest.mark.parametrize("remember", [True, False])
def test_what_was_forgotten_leaves_no_bit(part, remember):
    rows_, labels = X[part], Y[part]
    model = started(remember=remember).partial_fit(rows_, labels).partial_fit(X[300:350], Y[300:350] + 5)
    model.predict(X[:2])
    assert_same_model(model.forget(X[300:350], Y[300:350] + 5), started(remember=remember).partial_fit(rows_, labels))


@pytest.mark.parametrize("part", [FEW, MANY])
def test_forgetting_a_class_equals_never_having_seen_it(part):
    rows_, labels = X[part], Y[part]
    model = started().partial_fit(rows_, labels)
    model.predict(X[:2])
    kept = labels != 1
    assert_same_model(model.forget_classes([1]), started().partial_fit(rows_[kept], labels[kept]))


@pytest.mark.parametrize("remember", [True, False])
def test_merged_models_equal_one_that_learned_both(remember):
    one, other = (started(remember=remember).partial_fit(X[part], Y[part] + shift)
                  for part, shift in ((slice(0, 90), 0), (slice(90, 300), 1)))  # fmt: skip
    both = started(remember=remember).partial_fit(X[:90], Y[:90]).partial_fit(X[90:300], Y[90:300] + 1)
    assert_same_model(one.merge(other), both)


def test_a_weight_of_two_equals_two_copies():
    weights = 1 + np.arange(300) % 2
    weighted = started().partial_fit(X[:300], Y[:300], sample_weight=weights)
    copies = started().partial_fit(X[:300].repeat(weights, axis=0), Y[:300].repeat(weights))
    np.testing.assert_allclose(weighted.values_, copies.values_, atol=1e-4 * np.abs(copies.values_).max())


def test_class_weights_equal_so_many_copies():
    weights = np.array([1, 3, 1])[Y[:300]]
    weighted = started(class_weight={1: 3}).partial_fit(X[:300], Y[:300])
    copies = started().partial_fit(X[:300].repeat(weights, axis=0), Y[:300].repeat(weights))
    np.testing.assert_allclose(weighted.values_, copies.values_, atol=1e-4 * np.abs(copies.values_).max())


def test_the_device_may_be_named_and_the_kernel_may_be_missing(monkeypatch):
    expected = started().partial_fit(X, Y)
    assert_same_model(started(device="cpu").partial_fit(X, Y), expected)
    twin = copy.deepcopy(expected)
    vars(twin).pop("_learned")
    monkeypatch.setattr(native, "KERNEL", None)
    by_codes(twin, "partial_fit", codes_of(expected, X), Y)
    np.testing.assert_array_equal(twin.values_, expected.values_)


# Only sums


def forgetful(**settings):
    return started(remember=False, **settings)


def test_sums_solve_as_rows_do_with_the_same_settings():
    given = {"objective": "ridge", "alpha": 1e-3, "curvature": 0.6}
    rows_, sums = (started(remember=remember, **given).partial_fit(X, Y) for remember in (True, False))
    ratio = rows_.mixture_[0]["share"] / sums.mixture_[0]["share"]
    np.testing.assert_allclose(rows_.values_, ratio * sums.values_, atol=1e-5 * np.abs(rows_.values_).max())


def test_what_sums_take_does_not_grow_with_the_samples():
    model = forgetful().partial_fit(X[:200], Y[:200])
    gram = model._learned.sums.nbytes
    model.partial_fit(X, Y).partial_fit(X, Y)
    assert model._learned.sums.nbytes == gram == 8 * (24 * 24 + 3 * 24 + 3)
    assert model.state_bytes_ <= gram + model._learned.counts.nbytes


@pytest.mark.parametrize("name", ["fit", "partial_fit", "forget"])
def test_sums_refuse_weights_by_name_and_take_those_of_one_or_nothing(name):
    model = forgetful().partial_fit(X, Y)
    before = model.values_
    with pytest.raises(ValueError, match=r"sample_weight holds 2, but remember=False .*expected one, or zero"):
        getattr(model, name)(X[:3], Y[:3], sample_weight=[1.0, 2.0, 1.0])
    np.testing.assert_array_equal(model.values_, before)
    weights = (np.arange(400) % 4 > 0).astype(float)
    kept = forgetful().partial_fit(X[weights > 0], Y[weights > 0])
    assert_same_model(forgetful().partial_fit(X, Y, sample_weight=weights), kept)


def test_sums_refuse_weights_of_codes_and_of_lazy_rows_by_name():
    model = forgetful()
    with pytest.raises(ValueError, match="sample_weight holds 3"):
        by_codes(model, "partial_fit", codes_of(model, X), Y, sample_weight=np.full(400, 3.0))
    with pytest.raises(ValueError, match="sample_weight holds 3"):
        model.partial_fit(da.from_array(X, chunks=100), Y, sample_weight=np.full(400, 3.0))


def test_sums_refuse_class_weights_by_name_whenever_they_are_set():
    with pytest.raises(ValueError, match=r"class_weight='balanced' is not valid; expected None with remember=False"):
        flat(**SMALL, remember=False, class_weight="balanced").fit(X, Y)
    model = forgetful().partial_fit(X, Y)
    expected = model.predict(X)
    for call in (model.predict, lambda rows_: model.partial_fit(rows_, Y)):
        model.set_params(class_weight={0: 2.0})
        with pytest.raises(ValueError, match=r"class_weight=.*expected None with remember=False"):
            call(X)
    np.testing.assert_array_equal(model.set_params(class_weight=None).predict(X), expected)


def test_sums_are_calibrated_with_any_weights():
    assert forgetful().partial_fit(X[:200], Y[:200]).calibrate(X[200:], Y[200:], np.full(200, 2.0)).temperature_ != 1


def test_sums_refuse_to_forget_classes_or_what_was_never_learned():
    model = forgetful().partial_fit(X[:200], Y[:200])
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="remember=False keeps sums over samples, but forget_classes needs"):
        model.forget_classes([0])
    with pytest.raises(ValueError, match="X holds samples that were never learned"):
        model.forget(np.repeat(X[:1], 300, axis=0), np.repeat(Y[:1], 300))
    with pytest.raises(ValueError, match="X holds samples that were never learned"):
        model.forget(X[:1], [99])
    assert_same_model(model, before)
    assert_same_bits(model._learned.sums, before._learned.sums)


def test_counts_forget_classes_whatever_remember_says():
    model = forgetful(solver="counts").partial_fit(X, Y).forget_classes([1])
    assert model.classes_.tolist() == [0, 2]


def test_sums_and_rows_do_not_merge():
    with pytest.raises(ValueError, match=r"remember=True.*remember=False.*expected the same"):
        forgetful().partial_fit(X, Y).merge(started().partial_fit(X, Y))


def test_sums_survive_storing_and_go_on_learning(tmp_path):
    model = forgetful().partial_fit(X[:200], Y[:200])
    save_model(model, tmp_path / "m.npz")
    for twin in (pickle.loads(pickle.dumps(model)), load_model(tmp_path / "m.npz")):
        assert_same_model(twin, model)
        whole = forgetful().partial_fit(X, Y + (np.arange(400) >= 200))
        assert_same_model(twin.partial_fit(X[200:], Y[200:] + 1), whole)


@pytest.mark.parametrize("remember", [True, False])
def test_blocks_on_workers_give_the_bits_of_the_whole(remember):
    lazy = started(remember=remember).partial_fit(da.from_array(X, chunks=70), Y)
    whole = started(remember=remember).partial_fit(X, Y)
    assert_same_model(lazy, whole)
    np.testing.assert_array_equal(lazy.predict(da.from_array(X, chunks=70)).compute(), whole.predict(X))
    assert_same_model(lazy.forget(X[:50], Y[:50]), whole.forget(X[:50], Y[:50]))


def test_pruning_keeps_the_predictions_of_sums():
    model = forgetful().partial_fit(X[:30], Y[:30])
    before = model.predict_proba(X)
    np.testing.assert_allclose(model.prune().predict_proba(X), before, atol=1e-5)
    model.partial_fit(X, Y).forget(X, Y)
    np.testing.assert_allclose(model.predict_proba(X), before, atol=1e-5)


def test_empty_sums_have_no_rows():
    assert_same_bits(Sums.empty(3, 2).plus(Sums.empty(3, 2)), Sums.empty(3, 2))


@pytest.mark.parametrize("solver", ["joint", "ridge"])
@pytest.mark.parametrize("weights", [(1e-12, 1e-12), (1e12, 1e12), (1e-12, 1e12), (1e-300, 1e-300), (0.3, 1.7)])
@pytest.mark.parametrize("kind", ["plain", "constant", "one differs"])
def test_weights_of_any_size_give_finite_answers_for_any_rows(solver, weights, kind):
    rows_ = X[:40].copy() if kind == "plain" else np.ones((40, 10), dtype=np.float32)
    rows_[7] = X[7] if kind != "constant" else rows_[7]
    each = np.where(np.arange(40) % 7 == 0, *weights)
    for n_heads in (1, 6):
        model = started(solver=solver, n_heads=n_heads).partial_fit(rows_, np.arange(40) % 3, sample_weight=each)
        assert np.isfinite(model.values_).all()
        np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), np.ones(400))
