"""Blocks of features: each block has its own heads, which read nothing else, and is normalized separately."""

import io
import json
import pickle
import re
import zipfile

import numpy as np
import oracle
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model

RNG = np.random.default_rng(5)
Y = np.arange(90) % 3
X = (RNG.standard_normal((90, 9)) + np.eye(9)[Y] * 2).astype(np.float32)
X[:, 4:] *= 30  # different lengths, as for layers
BLOCKS = (4, 5)


def encoder(feature_blocks=BLOCKS, n_heads=7, **changes):
    return KeyEncoder(n_heads, 8, 2, feature_blocks=feature_blocks, random_state=0, **changes)


def classifier(solver="counts", **changes):
    return DKVBClassifier(encoder(**changes), solver=solver)


def dense(projection, n_heads=7):
    return projection if isinstance(projection, np.ndarray) else projection.toarray().reshape(len(X[0]), n_heads, 2)


@pytest.mark.parametrize("projection", ["orthogonal", "gaussian", "sparse", "learned"])
def test_heads_are_shared_out_and_see_their_block_alone(projection):
    found = dense(encoder(projection=projection).fit(X, Y).projection_)
    assert found.shape == (9, 7, 2)
    assert not found[4:, :4].any()
    assert not found[:4, 4:].any()
    assert found[:4, :4].any(axis=0).all()
    assert found[4:, 4:].any(axis=0).all()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("projection", ["orthogonal", "sparse", "learned"])
def test_codes_are_those_of_the_oracle_with_each_block_by_itself(projection, normalize):
    made = encoder(projection=projection, normalize=normalize, n_selected=2).fit(X, Y)
    parts = [oracle.normalize(part) if normalize else np.float64(part) for part in np.split(X, [4], axis=1)]
    heads = oracle.project(np.concatenate(parts, axis=1), dense(made.projection_))
    expected = oracle.nearest(heads, made.keys_, 2).reshape(len(X), -1)
    np.testing.assert_array_equal(made.transform(X), expected)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    more_heads=st.integers(0, 4),
    normalize=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_block_decides_the_codes_of_its_own_heads_and_no_others(widths, more_heads, normalize, seed):
    rng, n_heads = np.random.default_rng(seed), len(widths) + more_heads
    rows = rng.standard_normal((40, sum(widths))).astype(np.float32)
    made = KeyEncoder(n_heads, 4, 1, feature_blocks=widths, normalize=normalize, random_state=seed).fit(rows)
    before = np.asarray(made.transform(rows))
    starts, heads = np.cumsum([0, *widths]), np.array_split(np.arange(n_heads), len(widths))
    for block, own in enumerate(heads):
        changed = rows.copy()
        changed[:, starts[block] : starts[block + 1]] = rng.standard_normal((40, widths[block])) * 9
        after = np.asarray(made.transform(changed))
        others = np.setdiff1d(np.arange(n_heads), own)
        np.testing.assert_array_equal(after[:, others], before[:, others])


def test_the_length_of_one_block_tells_nothing_where_rows_are_normalized():
    made = encoder().fit(X)
    longer = X * np.float32([8] * 4 + [0.25] * 5)
    np.testing.assert_array_equal(made.transform(longer), made.transform(X))
    assert (np.asarray(KeyEncoder(7, 8, 2, random_state=0).fit(X).transform(longer)) != made.transform(X)).any()


def test_one_block_of_all_features_is_no_blocks():
    one, none = encoder((9,)).fit(X), encoder(None).fit(X)
    np.testing.assert_array_equal(one.transform(X), none.transform(X))
    np.testing.assert_array_equal(one.projection_, none.projection_)


def test_keys_depend_on_the_set_of_rows_alone():
    whole = encoder().fit(X)
    parts = encoder().fit(X[start : start + 30] for start in (60, 0, 30))
    assert whole.fingerprint_ == parts.fingerprint_


def test_the_fingerprint_tells_blocks_apart():
    found = {encoder(blocks).fit(X).fingerprint_ for blocks in (None, (4, 5), (5, 4), (3, 3, 3))}
    assert len(found) == 4
    book, other = encoder().fit(X), encoder().fit(X)
    other._codebook.settings["feature_blocks"] = (5, 4)  # with the same projection and keys
    assert book.fingerprint_ != other.fingerprint_


@pytest.mark.parametrize("given", [[4, 5], (4, 5), np.array([4, 5])])
def test_widths_come_as_any_sequence_and_survive_clone_and_files(given, tmp_path):
    model = DKVBClassifier(encoder(given), solver="counts")
    assert clone(model).get_params()["encoder__feature_blocks"] is not None
    model.fit(X, Y)
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert loaded.encoder_.feature_blocks == loaded.encoder.feature_blocks == (4, 5)
    for other in (loaded, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
        assert other.encoder_.fingerprint_ == model.encoder_.fingerprint_
    assert loaded.encoder_.set_params(feature_blocks=[4, 5]).transform(X).shape == (90, 7)


def test_skops_reads_blocks():
    model = classifier().fit(X, Y)
    trusted = ["dkvb_estimator._classifier.DKVBClassifier", "dkvb_estimator._encoder.KeyEncoder"]
    loaded = skops.io.loads(skops.io.dumps(model), trusted=trusted)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def header(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("header.json").decode()


def test_a_file_without_blocks_does_not_speak_of_them(tmp_path):
    """Releases without this setting can then read the file."""
    save_model(classifier(feature_blocks=None).fit(X, Y), tmp_path / "model.npz")
    assert "feature_blocks" not in header(tmp_path / "model.npz")
    assert load_model(tmp_path / "model.npz").encoder_.feature_blocks is None


@pytest.mark.parametrize("wrong", ["[4, 6]", "[9, 0]", "[10, -1]", "[4.0, 5.0]", "[true, 8]", '["4", "5"]'])
def test_forged_blocks_are_refused(tmp_path, wrong):
    path = tmp_path / "model.npz"
    save_model(classifier().fit(X, Y), path)
    forged, n = re.subn(r'"tuple": \[\s*4,\s*5\s*\]', f'"tuple": {wrong}', header(path))
    assert n == 3  # the parameter of both encoders, and that of the codebook
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"header.json": json.dumps(json.loads(forged)).encode()}).items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="is not a readable model file"):
        load_model(path)


@pytest.mark.parametrize("solver", ["counts", "joint"])
def test_forgetting_merging_and_pruning_are_exact_with_blocks(solver):
    keys = FrozenEstimator(encoder().fit(X))

    def learned(rows):
        return DKVBClassifier(keys, solver=solver).partial_fit(X[rows], Y[rows], classes=[0, 1, 2])

    rest, goes = np.arange(60), np.arange(60, 90)
    without = learned(rest).predict_proba(X)
    np.testing.assert_array_equal(learned(np.arange(90)).forget(X[goes], Y[goes]).predict_proba(X), without)
    np.testing.assert_array_equal(
        learned(rest).merge(learned(goes)).predict_proba(X), learned(np.arange(90)).predict_proba(X)
    )
    pruned = learned(rest).prune()
    assert pruned.encoder_.keys_.shape[1] <= 8
    np.testing.assert_array_equal(pruned.predict_proba(X), without)
    buffer = io.BytesIO(pickle.dumps(pruned))
    np.testing.assert_array_equal(pickle.load(buffer).predict_proba(X), without)


def test_models_of_other_blocks_are_not_merged():
    one, other = (DKVBClassifier(encoder(blocks), solver="counts").fit(X, Y) for blocks in ((4, 5), (5, 4)))
    with pytest.raises(ValueError, match=r"fingerprint_=.*expected the same"):
        one.merge(other)


BAD = {
    "another sum": ({"feature_blocks": (4, 6)}, r"feature_blocks=\(4, 6\) covers 10 features, but X has 9; expected"),
    "a number": ({"feature_blocks": 9}, "feature_blocks=9 is not valid; expected None or the widths of blocks"),
    "text": ({"feature_blocks": "45"}, "feature_blocks='45' is not valid; expected None or the widths"),
    "none at all": ({"feature_blocks": ()}, r"feature_blocks=\(\) is not valid; expected None or the widths"),
    "zero": ({"feature_blocks": (9, 0)}, "feature_blocks=0 is not valid; expected a whole number ≥ 1"),
    "too few heads": (
        {"feature_blocks": (4, 5), "n_heads": 1},
        "expected at most n_heads=1 blocks, one head per block",
    ),
    "identity": ({"projection": "identity", "n_heads": 2}, "its heads read fixed features; expected feature_blocks=No"),
    "chunk": (
        {"projection": "chunk"},
        "projection='chunk' does not support feature_blocks=.*Choose projection='orthogonal'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_blocks_that_do_not_fit_are_refused_by_name(case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        encoder(**changes).fit(X)


def test_a_fraction_of_a_feature_is_a_type_error():
    with pytest.raises(TypeError, match=r"feature_blocks=4\.5 is a float; expected a whole number"):
        encoder((4.5, 4.5)).fit(X)


def test_a_pickle_of_a_release_without_blocks_works(monkeypatch):
    model = DKVBClassifier(KeyEncoder(8, 16, 2, random_state=0), solver="counts").fit(X, Y)
    written = KeyEncoder.__getstate__
    monkeypatch.setattr(
        KeyEncoder,
        "__getstate__",
        lambda encoder: {name: value for name, value in written(encoder).items() if name != "feature_blocks"},
    )
    old = pickle.dumps(model)
    monkeypatch.undo()
    again = pickle.loads(old)
    assert again.encoder_.feature_blocks is None
    np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))
    assert "feature_blocks" not in repr(again)
