"""Codebook: the frozen half, whose codes depend only on the row."""

import numpy as np
import oracle
import pytest
import torch

from dkvb_estimator._encoding import codebook as _codebook
from dkvb_estimator._encoding.codebook import Codebook, Sketches, draw_codebook

CPU = torch.device("cpu")
PARAMS = {"projection": "gaussian", "key_init": "kmeans", "normalize": True, "density": "auto", "random_state": 0}
PARAMS |= {"feature_blocks": None}


def rows(n=300, n_features=37):
    return np.random.default_rng(2).standard_normal((n, n_features)).astype(np.float32)


def draw(X, seed=0, layout=(5, 16, 3), n_selected=1, **params):
    sizes = dict(zip(("n_heads", "n_keys", "key_dim"), layout, strict=True)) | {"n_selected": n_selected}
    return draw_from([(X, None)], PARAMS | sizes | params, seed)


def draw_from(blocks, params, seed=0):
    sketches = Sketches(params, seed, labelled=False).look_at(blocks)
    return draw_codebook(sketches, params, seed=seed, device=CPU)


def encoder(X, **params):
    return draw(X, **params).encoder(CPU)


def test_codes_equal_the_oracle():
    X = rows(40, 10)
    book = draw(X, n_selected=2)
    heads = oracle.project(oracle.normalize(X), book.projection)
    np.testing.assert_array_equal(book.encoder(CPU).encode(X), oracle.nearest(heads, book.keys, 2))


@pytest.mark.parametrize("projection", ["orthogonal", "gaussian", "sparse"])
@pytest.mark.parametrize("batch", [1, 2, 7, 128, 129])
def test_codes_are_the_same_in_batches_of_any_size(projection, batch):
    X = rows()
    encode = encoder(X, projection=projection, n_selected=2).encode
    together = encode(X)
    stop = min(300, 12 * batch)
    parts = [encode(X[start : start + batch]) for start in range(0, stop, batch)]
    np.testing.assert_array_equal(np.concatenate(parts)[:stop], together[:stop])


def test_codes_are_the_same_at_any_position_of_a_batch():
    X, order = rows(), np.random.default_rng(0).permutation(300)
    encode = encoder(X, n_selected=2).encode
    np.testing.assert_array_equal(encode(X[order]), encode(X)[order])


def test_codes_are_the_same_across_the_rows_held_at_a_time(monkeypatch):
    X = rows()
    encode = encoder(X).encode
    together = encode(X)
    monkeypatch.setattr(_codebook, "ENCODE_ROWS", 50)
    np.testing.assert_array_equal(encode(X), together)


def test_codes_are_the_same_for_one_and_two_threads():
    X = rows(300, 200)
    encode = encoder(X, layout=(16, 32, 14), n_selected=3).encode
    before, codes = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            codes.append(encode(X))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*codes)


def test_codes_take_the_smallest_unsigned_type():
    assert encoder(rows()).encode(rows()).dtype == np.uint8
    assert encoder(rows(), layout=(2, 300, 2)).encode(rows()).dtype == np.uint16


def test_keys_ignore_order_and_duplicates_of_rows():
    X = rows()
    shuffled = np.concatenate([X[::-1], X[:50]])
    np.testing.assert_array_equal(draw(shuffled).keys, draw(X).keys)


def test_keys_are_on_the_data():
    report = draw(rows()).report
    assert report["unused_share"] < 0.05
    assert report["n_rows"] == 300


def test_the_report_equals_the_oracle():
    X = rows(60, 6)
    book = draw(X)
    projection, keys, report = book.projection, book.keys, book.report
    away = oracle.distances(oracle.project(oracle.normalize(X), projection), keys)
    assert report["quantisation_error"] == pytest.approx(away.min(axis=2).mean(), rel=1e-4)
    hit = np.zeros(keys.shape[:2], bool)
    for c in range(len(keys)):
        hit[c, away[:, c].argmin(axis=1)] = True
    assert report["unused_share"] == pytest.approx(1 - hit.mean(), abs=1e-9)


def test_heads_placed_in_groups_fill_every_head(monkeypatch):
    X = rows(60, 6)
    monkeypatch.setattr(_codebook, "KEY_BUDGET_BYTES", 4 * 60 * 3 * 2)
    book = draw(X)
    projection, keys, report = book.projection, book.keys, book.report
    heads = torch.from_numpy(np.float32(oracle.project(oracle.normalize(X), projection)))
    assert keys.shape == (5, 16, 3)
    assert report["quantisation_error"] == pytest.approx(
        oracle.distances(heads.numpy(), keys).min(axis=2).mean(), rel=1e-4
    )


def test_predicting_finds_the_nearest_usable_keys():
    X = rows(40, 10)
    book = draw(X, n_selected=2)
    usable = np.arange(80).reshape(5, 16) % 2 == 0
    encode = book.encoder(CPU)
    found = encode.nearest(X, encode.search(usable))
    expected = oracle.nearest(oracle.project(oracle.normalize(X), book.projection), book.keys, 2, usable)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("projection", ["orthogonal", "gaussian", "sparse"])
def test_a_fingerprint_tells_codebooks_apart(projection):
    first, again, other = (draw(rows(), seed, projection=projection).fingerprint() for seed in (0, 0, 1))
    assert first == again != other
    assert draw(rows(), normalize=False).fingerprint() != draw(rows()).fingerprint()


def test_a_fingerprint_depends_on_every_key():
    book = draw(rows())
    state = book.state()
    state["keys"] = book.keys.copy()
    state["keys"][-1, -1, -1] = np.nextafter(book.keys[-1, -1, -1], np.float32(9))
    assert Codebook.from_state(state).fingerprint() != book.fingerprint()


def test_a_pruned_codebook_holds_the_used_keys_in_their_order():
    book, used = draw(rows()), np.random.default_rng(0).random((5, 16)) < 0.4
    pruned, order = book.pruned(used)
    assert pruned.keys.shape[1] == pruned.layout.n_keys == used.sum(axis=1).max()
    for head in range(5):
        np.testing.assert_array_equal(order[head][pruned.mask[head]], np.flatnonzero(used[head]))
        np.testing.assert_array_equal(pruned.keys[head][pruned.mask[head]], book.keys[head][used[head]])
    assert pruned.fingerprint() != book.fingerprint()


def test_a_pruned_codebook_selects_what_the_whole_one_selects_among_used_keys():
    X, used = rows(), np.random.default_rng(0).random((5, 16)) < 0.4
    book = draw(X)
    pruned, order = book.pruned(used)
    encode = book.encoder(CPU)
    found = encode.nearest(X, encode.search(used)).numpy()
    codes = pruned.encoder(CPU).encode(X)
    np.testing.assert_array_equal(order[np.arange(5)[None, :, None], codes], found)


def test_keys_placed_from_blocks_are_those_placed_from_all_rows():
    X = rows()
    sizes = {"n_heads": 5, "n_keys": 16, "key_dim": 3, "n_selected": 1}
    blocks = ((X[start : start + 70], None) for start in (210, 0, 140, 70, 280))
    np.testing.assert_array_equal(draw_from(blocks, PARAMS | sizes).keys, draw(X).keys)


def test_keys_placed_from_merged_sketches_are_those_placed_from_all_rows():
    X = rows()
    params = PARAMS | {"n_heads": 5, "n_keys": 16, "key_dim": 3, "n_selected": 1}
    first, *rest = (
        Sketches(params, 0, labelled=False).look_at([(X[s : s + 70], None)]) for s in (140, 0, 280, 70, 210)
    )
    book = draw_codebook(first.merged(*rest), params, seed=0, device=CPU)
    np.testing.assert_array_equal(book.keys, draw(X).keys)


def test_the_search_is_shared_once_samples_selected_every_key():
    X, used = rows(60, 10), np.ones((5, 16), dtype=bool)
    device = encoder(X)
    assert device.search(used) is device.search(None)
    used[1, 2] = False
    fewer = device.search(used)
    assert fewer is not device.search(None)
    assert not (device.nearest(X, fewer)[:, 1] == 2).any()
