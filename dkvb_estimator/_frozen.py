"""The estimator's frozen half: placing keys and encoding with them, as scikit-learn's users would have it.

Enters: embeddings (n, f), lazily if need be. Leaves: codes (n, c, m) and the attributes of a :class:`Codebook`. Must
not know: how values learn.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ._atomic import all_or_nothing
from ._blocks import WORKERS, by_blocks, is_dask, map_blocks, refuse_blocks, split_blocks, stream_blocks, weighty
from ._device import DeviceCache, resolve_device
from ._encoding import Block, Codebook, Encoder, Sketches, code_dtype, draw_codebook
from ._labels import as_labels, check_labels
from ._persistence import check_state
from ._validation import (
    Layout,
    as_array,
    as_float32,
    check_codes,
    check_parameters,
    check_unchanged,
    drop_weightless,
    keeps_sums,
    refuse_weights,
)
from ._values import Learned

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SHOWN = ("classes_", "feature_names_in_", "keys_", "n_features_in_", "n_iter_", "projection_", "key_report_")
"""Attributes that notebooks show: those that are stored."""
FEW_FEATURES = 16
ROWS_A_LINE = 16_384
"""Rows that are encoded between two lines of progress."""


class FrozenHalf(BaseEstimator):
    """Place keys once, and turn embeddings into codes. The parameters are those of :class:`DKVBClassifier`."""

    n_keys: int
    normalize: bool
    projection: str
    solver: str
    remember: bool
    key_data: Any
    device: str
    random_state: Any
    verbose: int
    n_features_in_: int
    _codebook: Codebook
    _learned: Learned
    _scratch: DeviceCache
    # What the question mark of scikit-learn's HTML repr leads to; the paper, until the documentation has an address.
    _doc_link_module = "dkvb_estimator"
    _doc_link_template = "https://arxiv.org/abs/2207.11240"

    @all_or_nothing
    def init_keys(self, X: Any, y: Any = None) -> Self:
        """Draw the projection and place the keys from embeddings, before anything is learned.

        Keys depend on the set of rows alone, so blocks of any size and order give the same.

        Parameters
        ----------
        X : array-like of shape (n, f), or an iterable of such blocks
            An iterable, such as torch's ``DataLoader``, is read once, one block in memory at a time; with labels it
            yields pairs of X and y. A dask array is looked at by its workers.
        y : array-like of shape (n,) or None
            Labels, which ``projection="learned"`` needs and nothing else looks at.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the model has learned already: its values belong to its keys.

        Examples
        --------
        >>> import numpy as np
        >>> from dkvb_estimator import DKVBClassifier
        >>> X = np.random.default_rng(0).standard_normal((300, 20))
        >>> whole, blocks = (DKVBClassifier(4, 8, 3, random_state=0) for _ in range(2))
        >>> fingerprint = whole.init_keys(X).fingerprint_
        >>> fingerprint == blocks.init_keys(X[start : start + 100] for start in (200, 0, 100)).fingerprint_
        True
        """
        check_parameters(self.get_params(deep=False))
        if hasattr(self, "_learned"):
            raise ValueError(
                f"init_keys came after {self._learned.n_samples} samples were learned, whose values belong to the old "
                "keys; expected a model that has learned nothing. Call it on clone(model), then learn again."
            )
        self._start_codebook(X, y, None, checked=False, source="init_keys")
        return self

    @by_blocks
    def encode(self, X: Any) -> np.ndarray:
        """Return the nearest keys of each head, used or not, nearest first.

        Parameters
        ----------
        X : array-like of shape (n, f)

        Returns
        -------
        ndarray of shape (n, c, m), uint8 or uint16
            Of a dask array, a dask array.
        """
        self._check_has_keys("encode")
        return self._encode(self._check_X(X))

    @property
    def projection_(self) -> Any:
        """The frozen projection (f, c, d)."""
        return self._codebook.projection

    @property
    def keys_(self) -> np.ndarray:
        """The frozen keys (c, j, d), float32."""
        return self._codebook.keys

    @property
    def key_mask_(self) -> np.ndarray:
        """Keys that are there and not padding (c, j), bool."""
        mask = self._codebook.mask
        return np.ones(self.keys_.shape[:2], dtype=bool) if mask is None else mask

    @property
    def key_report_(self) -> dict[str, float]:
        """What placing the keys gave: share of unused keys, quantisation error, rows looked at."""
        return dict(self._codebook.report)

    @property
    def fingerprint_(self) -> str:
        """The sha256 of projection and keys: equal fingerprints give equal codes on one machine."""
        self._check_has_keys("fingerprint_")
        return self._codebook.fingerprint()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_scratch", None)
        for name in ("_codebook", "_learned"):  # plain arrays: then skops needs to trust no class but the estimator
            if name in state:
                state[name] = state[name].state()
        return state | {"_schema_version": SCHEMA_VERSION}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_schema_version", 0)
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"the stored model has state version {version}; this dkvb_estimator reads version {SCHEMA_VERSION}. "
                "Load it with the release that wrote it, or fit again."
            )
        check_state(state)
        if "_codebook" in state:
            state |= {"_codebook": Codebook.from_state(state["_codebook"]), "_scratch": DeviceCache()}
        if "_learned" in state:
            state["_learned"] = Learned.from_state(state["_learned"])
        super().__setstate__(state)

    def _check_codes(self, codes: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        y = check_labels(column_or_1d(as_labels(y), warn=True))
        check_classification_targets(y)
        layout = self._layout()
        codes = check_codes(codes, layout, len(y), self._codebook.mask)
        codes = codes.astype(code_dtype(layout.n_keys), copy=False)
        return self._without_weightless(codes, y, sample_weight)

    def _check_learning(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, learned: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Validate once; rows of weight zero leave here, so that they are as if never given.

        Rows that are not ``learned`` may have any weights, whatever is kept of those that are.
        """
        refuse_blocks(X)
        X, y = validate_data(self, as_array(X), as_labels(y), dtype=[np.float32, np.float64], reset=reset)
        y = check_labels(y)
        check_classification_targets(y)
        check = self._without_weightless if learned else drop_weightless
        return check(as_float32(X), y, sample_weight)

    def _without_weightless(
        self, rows: np.ndarray, y: np.ndarray, sample_weight: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Leave out rows of weight zero; where sums are kept, the others weigh one."""
        rows, y, weights = drop_weightless(rows, y, sample_weight)
        if not keeps_sums(self.solver, self.remember):
            return rows, y, weights
        refuse_weights(weights)
        return rows, y, None

    def _check_X(self, X: Any) -> np.ndarray:
        refuse_blocks(X)
        return as_float32(validate_data(self, as_array(X), dtype=[np.float32, np.float64], reset=False))

    def _check_has_keys(self, caller: str) -> None:
        check_is_fitted(
            self,
            "_codebook",
            msg=f"this %(name)s has no keys yet, which {caller} needs. Call fit, partial_fit or init_keys first.",
        )

    def _layout(self) -> Layout:
        """Return the codebook's shape, after checking that the settings are still those it was drawn with."""
        params = self.get_params(deep=False)
        check_parameters(params | {"codes_dir": None})  # that folder is looked for where it is written to
        check_unchanged(self._codebook.settings, params)
        if self.key_data is not None and self._codebook.source == "X":
            raise ValueError(
                "key_data was set after the keys were placed from the first rows learned; expected None. Set it back, "
                "or start anew with clone(model)."
            )
        return self._codebook.layout

    def _start_codebook(self, X: Any, y: Any, weights: Any, *, checked: bool, source: str | None = None) -> None:
        """Place keys from rows given for them (``source``), else from ``key_data``, else from rows to learn."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        labelled, own = self.projection == "learned", source is not None or self.key_data is None
        keys = None if own else self._look_at_key_data(seed)
        if keys is not None and not labelled:
            sketches, keys = keys, None
        else:
            sketches = self._look_at(X, y, weights, seed, labelled=labelled, checked=checked)
        self._draw(sketches, keys, source or ("X" if own else "key_data"), seed)

    def _look_at_key_data(self, seed: int) -> Sketches:
        """Look at ``key_data``; what is wrong with it is said in its name."""
        try:
            return self._look_at(self.key_data, None, None, seed, labelled=False, reset=False)
        except (TypeError, ValueError) as error:
            kind, said = type(error), re.sub(r"\bX\b", "key_data", str(error)).rstrip(". \n")
            raise (TypeError if issubclass(kind, TypeError) else ValueError)(
                f"key_data does not fit: {said}; expected rows (n, f) with the features of X. Pass embeddings of "
                "the same network with set_params(key_data=...)."
            ) from error

    def _look_at(
        self, X: Any, y: Any, weights: Any, seed: int, *, labelled: bool, checked: bool = False, reset: bool = True
    ) -> Sketches:
        y = y if labelled else None
        if is_dask(X):
            self._check_features(X, reset=reset)
            parts = map_blocks(self.light(), FrozenHalf._sketch_block, X, y, weights, extra=(seed, labelled))
            return WORKERS.fetch(WORKERS.fold(parts, Sketches.merged))[0]
        pairs = (
            split_blocks(X, y, labelled=labelled)
            if weights is None
            else (block[:2] for block in stream_blocks(X, y, weights))
        )
        blocks = [(X, y)] if checked else self._check_blocks(pairs, reset=reset)
        return Sketches(self.get_params(deep=False), seed, labelled=labelled).look_at(blocks)

    def _sketch_block(self, X: np.ndarray, y: Any, weights: Any, seed: int, labelled: bool) -> Sketches:
        """Return what is looked at of one block of rows: a worker's share of :meth:`init_keys`."""
        X, y, _ = weighty(X, y, weights)
        pairs = split_blocks(X, y, labelled=labelled) if len(X) else iter([])
        blocks = self._check_blocks(pairs, reset=False)
        return Sketches(self.get_params(deep=False), seed, labelled=labelled).look_at(blocks)

    def light(self, method: str = "encode") -> Self:
        """Return a copy without data and without what was learned: all that workers need to call ``method``."""
        light = type(self)(**self.get_params(deep=False) | {"key_data": None})
        for name in ("n_features_in_", "_codebook"):
            if hasattr(self, name):
                setattr(light, name, getattr(self, name))
        light._scratch = DeviceCache()
        return light

    def _check_features(self, X: Any, *, reset: bool) -> None:
        """Check the shape of lazy rows, whose content is checked block by block."""
        if len(X.shape) != 2:
            raise ValueError(f"X has shape {tuple(X.shape)}; expected two axes (n, f). Reshape X.")
        validate_data(self, X, reset=reset, skip_check_array=True)

    def _check_blocks(self, pairs: Iterable[tuple[Any, Any]], *, reset: bool) -> Iterator[Block]:
        """Validate blocks one by one; where features are reset, the first decides their number."""
        for rows, labels in pairs:
            kinds = [np.float32, np.float64]
            if labels is None:
                rows = validate_data(self, as_array(rows), dtype=kinds, reset=reset)
            else:
                rows, labels = validate_data(self, as_array(rows), as_labels(labels), dtype=kinds, reset=reset)
                labels = check_labels(labels)
            yield as_float32(rows), labels
            reset = False

    def _draw(self, sketches: Sketches, keys: Sketches | None, source: str, seed: int) -> None:
        params, device, started = self.get_params(deep=False), resolve_device(self.device), time.perf_counter()
        self._codebook = draw_codebook(sketches, keys, params, source=source, seed=seed, device=device)
        self._scratch = DeviceCache()
        if self.n_features_in_ < FEW_FEATURES and self.normalize:
            logger.info(
                "embeddings have %d features and normalize=True, which keeps only their direction; normalize=False "
                "may serve so few features better.",
                self.n_features_in_,
            )
        layout, report = self._codebook.layout, self.key_report_
        self._say(
            f"{layout.n_heads} heads × {layout.n_keys} keys placed from {report['n_rows']:,} rows in "
            f"{time.perf_counter() - started:.1f} s, {report['unused_share']:.1%} unused"
        )

    def _warn_about_few_rows(self) -> None:
        rows, keys = int(self.key_report_["n_rows"]), self.n_keys
        if self._codebook.source == "X" and rows < keys:
            warnings.warn(
                f"the first batch has {rows} distinct rows for {keys} keys a head, and keys never move again; "
                "accuracy may suffer for good. Call init_keys with more (unlabelled) data first, or pass key_data.",
                UserWarning,
                stacklevel=4,
            )

    def _encode(self, X: np.ndarray) -> np.ndarray:
        """Encode valid rows; the blocks, which ``verbose`` reports, change no bit of the codes."""
        encoder, started = self._encoder(), time.perf_counter()
        if not self.verbose:
            return encoder.encode(X)
        parts, done = [], 0
        for rows in np.array_split(X, range(ROWS_A_LINE, len(X), ROWS_A_LINE)):
            parts.append(encoder.encode(rows))
            done += len(rows)
            speed = done / max(time.perf_counter() - started, 1e-9)
            left = f", {(len(X) - done) / speed:.0f} s left" if done < len(X) else ""
            self._say(f"{done:,} of {len(X):,} rows encoded, {speed:,.0f} rows/s{left}")
        return np.concatenate(parts)

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        """Show what is stored in notebooks; scikit-learn would read every attribute, and solve the values for it."""
        shown = SimpleNamespace(**{name: getattr(self, name) for name in SHOWN if hasattr(self, name)})
        table = BaseEstimator._get_fitted_attr_html(shown, doc_link)
        table.estimator_class = type(self)
        return table

    def _say(self, text: str) -> None:
        """Print a line of progress on stderr, where ``verbose`` asks for it."""
        if self.verbose:
            print(f"[{type(self).__name__}] {text}", file=sys.stderr, flush=True)

    def _encoder(self) -> Encoder:
        self._layout()
        return self._codebook.encoder(resolve_device(self.device))
