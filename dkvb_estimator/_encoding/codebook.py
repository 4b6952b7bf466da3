"""The frozen projection and keys, and the encoder made of them.

Enters: embeddings (n, f), float32, in blocks. Leaves: a :class:`Codebook`, codes (n, c, m). Must not know: values,
solvers; of labels only that a learned projection uses them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import starmap
from typing import Any

import numpy as np
import torch

from dkvb_estimator._device import DeviceCache, to_tensor
from dkvb_estimator._labels import label_columns
from dkvb_estimator._progress import SILENT, Progress
from dkvb_estimator._validation import FROZEN, MAX_KEYS, Layout, code_dtype, plain_setting, resolve_layout

from .key_placement import RowSketch, place_keys, report_keys, sketch_size
from .learned_projection import learn_projection
from .nearest import KeySearch, squared_distances
from .projection import Projection, Projector, draw_projection, join_blocks, select_heads, share_heads
from .sharing import KeySharing

ENCODE_ROWS = 512
"""Rows that are encoded at once. With 256 heads × 14 coordinates of 1,280 features, encoding any number of rows holds
less than 128 MiB besides keys and codes: see ``benchmarks/key_memory.py``."""
KEY_BUDGET_BYTES = 32 * 2**20
"""Bytes of projected sketch rows held at once while keys are placed. Placing 4096 keys from 1,280 features then needs
at most 512 MiB besides the data, for any number of heads and rows: see ``benchmarks/key_memory.py``."""
LABELLED_ROWS = 20_000
"""Largest number of distinct labelled rows from which a projection is learned."""
SKETCH_ROWS = 8192
"""Rows added to a sketch between two updates of the progress bar."""

Block = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Codebook:
    """Projection and keys, which never change.

    Parameters
    ----------
    projection : ndarray of shape (f, c, d) or csr_array of shape (f, c * d)
    keys : ndarray of shape (c, j, d), float32
    centres : ndarray of shape (c, d), float32
        Mean of each head's keys as they were placed. Distances are computed around it, so that they round in the same
        way before and after pruning.
    reaches : ndarray of shape (c,), float32
        Largest magnitude of a coordinate of the placed keys around their centre: the unit of :class:`Prior`.
    mask : ndarray of shape (c, j), bool, or None
        After pruning, which keys are not padding.
    origin : ndarray of shape (c, j), uint16, or None
        After pruning, the position of each key when it was placed; samples are hashed by these positions.
    layout : Layout
    settings : mapping
        The encoder's parameters in ``FROZEN``.
    seed : int
    report : dict
        ``unused_share`` of the keys, ``quantisation_error`` (mean squared distance of a head to its key), ``n_rows``
        (distinct rows in the sketch), ``novelty_unit`` (the error, or the variance of the keys if that is zero).
    """

    projection: Projection
    keys: np.ndarray
    centres: np.ndarray
    reaches: np.ndarray
    mask: np.ndarray | None
    origin: np.ndarray | None
    layout: Layout
    settings: Mapping[str, Any]
    seed: int
    report: Mapping[str, float]
    _encoders: DeviceCache = field(default_factory=DeviceCache, repr=False)

    def encoder(self, device: torch.device) -> DeviceEncoder:
        """Return the encoder on a device, made once."""
        return self._encoders.get(str(device), lambda: DeviceEncoder(self, device))

    def pruned(self, used: np.ndarray) -> tuple[Codebook, np.ndarray]:
        """Return the codebook with only the used keys (c, j), bool, and their old positions (c, fewer keys)."""
        width = int(used.sum(axis=1).max())
        order = np.argsort(~used, axis=1, kind="stable")[:, :width]
        mask = np.take_along_axis(used, order, axis=1)
        keys = np.take_along_axis(self.keys, order[..., None], axis=1) * mask[..., None]
        layout = replace(self.layout, n_keys=width)
        origin = order if self.origin is None else np.take_along_axis(self.origin, order, axis=1)
        changes = {"keys": keys, "mask": mask, "origin": origin.astype(np.uint16), "layout": layout}
        return replace(self, **changes, _encoders=DeviceCache()), order

    def is_part_of(self, other: Codebook) -> bool:
        """Return whether pruning another codebook can give this one: equal projection, and a subset of its keys."""
        pairs = zip(_arrays(self.projection), _arrays(other.projection))
        if self.settings["normalize"] != other.settings["normalize"] or not all(starmap(np.array_equal, pairs)):
            return False
        (names, keys), (others, theirs) = self._placed_keys(), other._placed_keys()
        found = np.searchsorted(others, names).clip(max=len(others) - 1)
        return np.array_equal(others[found], names) and np.array_equal(theirs[found], keys)

    def _placed_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the position (p,) of each existing key when it was placed, ascending, and the keys (p, d)."""
        there = np.ones(self.keys.shape[:2], dtype=bool) if self.mask is None else self.mask
        origin = np.arange(there.shape[1])[None] if self.origin is None else self.origin
        return (origin + MAX_KEYS * np.arange(len(there))[:, None])[there], self.keys[there]

    def fingerprint(self) -> str:
        """Return the sha256 of everything that determines the codes, computed once."""
        found: str = self._encoders.get("fingerprint", self._fingerprint)
        return found

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(b"dkvb-codebook-1" + bytes([self.settings["normalize"]]))
        if self.settings["feature_blocks"] is not None:
            digest.update(np.array(self.settings["feature_blocks"], "<i8").tobytes())
        parts = [*_arrays(self.projection), self.keys, self.mask, self.origin]
        for array in (each for each in parts if each is not None):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def state(self) -> dict[str, Any]:
        """Return the codebook as dicts of arrays, text and numbers."""
        state = {name: value for name, value in vars(self).items() if name != "_encoders"}
        # omitted if there are none, so that earlier releases can read the file
        settings = {name: value for name, value in self.settings.items() if name != "feature_blocks" or value}
        return state | {"layout": vars(self.layout), "settings": settings, "report": dict(self.report)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Codebook:
        """Rebuild a codebook from its :meth:`state`."""
        state = {name: value for name, value in state.items() if name != "source"}  # stored by older releases
        settings = {name: value for name, value in state["settings"].items() if name in FROZEN}
        settings = {"feature_blocks": None} | settings
        added = {"origin": None, "reaches": _reaches(state["keys"], state["centres"])}
        return cls(**added | state | {"layout": Layout(**state["layout"]), "settings": settings})


class Sketches:
    """Sample of the rows from which keys are placed; sketches of parts merge into the sketch of the whole.

    Parameters
    ----------
    params : mapping
        Parameters of the encoder.
    seed : int
    labelled : bool
        Whether to keep labelled rows too, for a learned projection.
    """

    def __init__(self, params: Mapping[str, Any], seed: int, *, labelled: bool) -> None:
        self._rows = RowSketch(sketch_size(params["key_init"], params["n_keys"]), seed)
        self._labelled = RowSketch(LABELLED_ROWS, seed) if labelled else None

    def look_at(self, blocks: Iterable[Block], *, n_rows: int | None = None, progress: Progress = SILENT) -> Sketches:
        """Add blocks; each is read once and dropped. ``n_rows`` is their total number of rows, if known."""
        with progress.bar("reading", n_rows, "rows") as advance:
            for X, y in blocks:
                for start in range(0, len(X), SKETCH_ROWS):
                    part = slice(start, start + SKETCH_ROWS)
                    self._rows.add(X[part])
                    if self._labelled is not None:
                        self._labelled.add(np.column_stack([X[part], label_columns(np.asarray(y)[part])]))
                    advance(len(X[part]))
        return self

    def merged(self, *others: Sketches) -> Sketches:
        """Return the sketches of all rows; the originals stay as they are."""
        both = copy.copy(self)
        both._rows = self._rows.merged(*(other._rows for other in others))
        if self._labelled is not None:
            both._labelled = self._labelled.merged(*(other._labelled for other in others if other._labelled))
        return both

    def rows(self) -> np.ndarray:
        """Return the rows for keys (≤ size, f), float32, and drop them from the sketch.

        Raises
        ------
        ValueError
            If there are none.
        """
        if not len(self._rows):
            raise ValueError(
                "X has no row with a positive weight to place keys from; expected at least one. Pass rows with "
                "positive weights, or with sample_weight=None."
            )
        return self._rows.rows()

    def labelled(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the rows (≤ size, f) and hashed labels for a learned projection, or None, and drop them."""
        if self._labelled is None:
            return None
        rows = self._labelled.rows()
        return np.ascontiguousarray(rows[:, :-2]), rows[:, -2:].astype(np.float64) @ [2.0**24, 1.0]


def draw_codebook(
    sketches: Sketches, params: Mapping[str, Any], *, seed: int, device: torch.device, progress: Progress = SILENT
) -> Codebook:
    """Draw a projection and place keys.

    Parameters
    ----------
    sketches : Sketches
        Sketches of rows and, for a learned projection, labels.
    params : mapping
        Parameters of the encoder.
    seed : int
        Seed of everything that is drawn.
    device : torch.device
    progress : Progress
    """
    rows, labelled = sketches.rows(), sketches.labelled()
    layout = resolve_layout(params, rows.shape[1])
    rng = np.random.default_rng(seed)
    projection = join_blocks(
        [
            _project(columns, (n_heads, layout.key_dim), labelled, params, rng)
            for columns, n_heads in share_heads(params["feature_blocks"], rows.shape[1], layout.n_heads)
        ]
    )
    keys, report = _place(rows, projection, layout, params, seed, device, progress)
    centres = keys.mean(axis=1, dtype=np.float64).astype(np.float32)
    variance = float(keys.var(axis=1, dtype=np.float64).sum(axis=1).mean())
    report["novelty_unit"] = report["quantisation_error"] or variance or 1.0
    given = {name: plain_setting(params[name]) for name in FROZEN}
    settings = {name: value for name, value in given.items() if not isinstance(value, np.random.RandomState)}
    return Codebook(projection, keys, centres, _reaches(keys, centres), None, None, layout, settings, seed, report)


def _project(
    columns: slice,
    shape: tuple[int, int],
    labelled: tuple[np.ndarray, np.ndarray] | None,
    params: Mapping[str, Any],
    rng: np.random.Generator,
) -> Projection:
    """Draw or learn the projection of the heads that read some columns."""
    if labelled is None:
        return draw_projection(params["projection"], columns.stop - columns.start, *shape, rng, params["density"])
    X = np.ascontiguousarray(labelled[0][:, columns])
    return learn_projection(X, labelled[1], *shape, rng, normalize=params["normalize"])


def _arrays(projection: Projection) -> list[np.ndarray]:
    if isinstance(projection, np.ndarray):
        return [projection]
    return [projection.data, projection.indices, projection.indptr]


def _reaches(keys: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.abs(keys - centres[:, None]).max(axis=(1, 2))


def _place(
    rows: np.ndarray,
    projection: Projection,
    layout: Layout,
    params: Mapping[str, Any],
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, float]]:
    """Place the keys, for as many heads at once as the budget allows."""
    group = max(1, KEY_BUDGET_BYTES // (4 * len(rows) * layout.key_dim))
    keys = np.empty((layout.n_heads, layout.n_keys, layout.key_dim), dtype=np.float32)
    unused, error = 0.0, 0.0
    how = {"normalize": params["normalize"], "blocks": plain_setting(params["feature_blocks"])}
    with progress.bar("placing keys", layout.n_heads, "heads") as advance:
        for start in range(0, layout.n_heads, group):
            part = slice(start, min(start + group, layout.n_heads))
            n_heads = part.stop - part.start
            some = select_heads(projection, part, layout.n_heads)
            projector = Projector(some, (n_heads, layout.key_dim), device, **how)
            heads = projector.project(to_tensor(rows, device))
            placed = place_keys(heads, layout.n_keys, params["key_init"], np.random.default_rng([seed, start]))
            part_unused, part_error = report_keys(heads, placed)
            keys[part] = placed.cpu().numpy()
            unused += part_unused * n_heads / layout.n_heads
            error += part_error * n_heads / layout.n_heads
            advance(n_heads)
    report = {"unused_share": unused, "quantisation_error": error, "n_rows": len(rows)}
    return keys, report


class DeviceEncoder:
    """Encoder with its tensors on a device.

    Parameters
    ----------
    codebook : Codebook
    device : torch.device
    """

    def __init__(self, codebook: Codebook, device: torch.device) -> None:
        layout, settings = codebook.layout, codebook.settings
        how = {"normalize": settings["normalize"], "blocks": settings["feature_blocks"]}
        self._projector = Projector(codebook.projection, (layout.n_heads, layout.key_dim), device, **how)
        self._keys, self._centres = to_tensor(codebook.keys, device), to_tensor(codebook.centres, device)
        self._reaches = codebook.reaches.astype(np.float64)
        self._n_selected, self._device = layout.n_selected, device
        self._mask = np.ones(codebook.keys.shape[:2], dtype=bool) if codebook.mask is None else codebook.mask
        self._all = KeySearch(
            self._keys, None if codebook.mask is None else to_tensor(codebook.mask, device), self._centres
        )

    def encode(self, X: np.ndarray, progress: Progress = SILENT) -> np.ndarray:
        """Return the nearest keys of each head (n, c, m), bit-identical in every batch; see ``Projector``."""
        n_heads, n_keys, key_dim = self._keys.shape
        room = torch.empty((min(len(X), ENCODE_ROWS), n_heads * key_dim), dtype=torch.float32, device=self._device)
        codes = np.empty((len(X), n_heads, self._n_selected), dtype=code_dtype(n_keys))
        with progress.bar("encoding", len(X), "rows") as advance:
            for start in range(0, len(X), ENCODE_ROWS):
                rows = to_tensor(X[start : start + ENCODE_ROWS], self._device)
                heads = self._projector.project(rows, room=room)
                codes[start : start + ENCODE_ROWS] = self._all.codes(heads, self._n_selected)
                advance(len(rows))
        return codes

    def search(self, usable: np.ndarray | None) -> KeySearch:
        """Return the search among the usable keys (c, j), bool; None for all.

        The search among all keys is shared, with the grid or the boxes that it has made.
        """
        if usable is None or np.array_equal(usable, self._mask):
            return self._all
        return KeySearch(self._keys, to_tensor(usable, self._device), self._centres)

    def sharing(self, used: np.ndarray, before: KeySharing | None = None) -> KeySharing:
        """Return how keys share the counts of used keys (c, j), bool; heads as in ``before`` are not computed again."""
        known = before or KeySharing.empty(*used.shape)
        return known.updated(used, self._keys, self._centres, self._reaches)

    def nearest_to_keys(self, search: KeySearch) -> np.ndarray:
        """Return the nearest searched key of each key (c, j), int64."""
        return search.nearest(self._keys.transpose(0, 1), 1)[:, :, 0].T.cpu().numpy()

    def nearest(self, X: np.ndarray, search: KeySearch) -> torch.Tensor:
        """Return the nearest searched keys (n, c, m), int64, with low latency for few rows."""
        return search.nearest(self._heads(X), self._n_selected)

    def distances(self, X: np.ndarray, search: KeySearch) -> np.ndarray:
        """Return the squared distance of each head to its nearest searched key (n, c), float32."""
        heads = self._heads(X)
        return squared_distances(heads, self._keys, search.nearest(heads, 1))[:, :, 0].cpu().numpy()

    def _heads(self, X: np.ndarray) -> torch.Tensor:
        return self._projector.project(to_tensor(X, self._device), small=True)
