"""The estimator's frozen half: placing keys and encoding with them, as scikit-learn's users would have it.

Enters: embeddings (n, f), lazily if need be. Leaves: codes (n, c, m) and the attributes of a :class:`Codebook`. Must
not know: how values learn.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ._blocks import split_blocks
from ._codebook import Block, Codebook, Encoder, draw_codebook
from ._device import DeviceCache, resolve_device
from ._intact import check_state
from ._learned import Learned
from ._nearest import code_dtype
from ._validation import (
    Layout,
    as_array,
    as_float32,
    check_codes,
    check_parameters,
    check_unchanged,
    drop_weightless,
)

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FEW_FEATURES = 16


class FrozenHalf(BaseEstimator):
    """Place keys once, and turn embeddings into codes. The parameters are those of :class:`DKVBClassifier`."""

    n_keys: int
    normalize: bool
    projection: str
    key_data: Any
    device: str
    random_state: Any
    verbose: int
    n_features_in_: int
    _codebook: Codebook
    _learned: Learned
    _scratch: DeviceCache

    def init_keys(self, X: Any, y: Any = None) -> Self:
        """Draw the projection and place the keys from embeddings, before anything is learned.

        Keys depend on the set of rows alone, so blocks of any size and order give the same.

        Parameters
        ----------
        X : array-like of shape (n, f), or an iterator of such blocks
            An iterator is read once, one block in memory at a time; with labels it yields pairs of X and y.
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
        self._draw(self._check_blocks(X, y), None, "init_keys")
        return self

    def encode(self, X: Any) -> np.ndarray:
        """Return the nearest keys of each head, used or not, nearest first.

        Parameters
        ----------
        X : array-like of shape (n, f)

        Returns
        -------
        ndarray of shape (n, c, m), uint8 or uint16
        """
        self._check_has_keys("encode")
        return self._encoder().encode(self._check_X(X))

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
        y = column_or_1d(as_array(y), warn=True)
        check_classification_targets(y)
        layout = self._layout()
        codes = check_codes(codes, layout, len(y), self._codebook.mask)
        codes = codes.astype(code_dtype(layout.n_keys), copy=False)
        return drop_weightless(codes, y, sample_weight)

    def _check_X(self, X: Any) -> np.ndarray:
        return as_float32(validate_data(self, as_array(X), dtype=[np.float32, np.float64], reset=False))

    def _check_has_keys(self, caller: str) -> None:
        check_is_fitted(
            self,
            "_codebook",
            msg=f"this %(name)s has no keys yet, which {caller} needs. Call fit, partial_fit or init_keys first.",
        )

    def _layout(self) -> Layout:
        """Return the codebook's shape, after checking that the settings are still those it was drawn with."""
        check_unchanged(self._codebook.settings, self.get_params(deep=False))
        return self._codebook.layout

    def _start_codebook(self, X: np.ndarray, y: np.ndarray) -> None:
        if self.key_data is None:
            self._draw([(X, y)], None, "X")
        else:
            self._draw([(X, y)], [(self._check_X(self.key_data), None)], "key_data")

    def _check_blocks(self, X: Any, y: Any) -> Iterator[Block]:
        """Validate blocks one by one; the first decides the number of features."""
        first = True
        for rows, labels in split_blocks(X, y, labelled=self.projection == "learned"):
            kinds = [np.float32, np.float64]
            if labels is None:
                rows = validate_data(self, as_array(rows), dtype=kinds, reset=first)
            else:
                rows, labels = validate_data(self, as_array(rows), as_array(labels), dtype=kinds, reset=first)
            yield as_float32(rows), labels
            first = False

    def _draw(self, blocks: Iterable[Block], key_blocks: Iterable[Block] | None, source: str) -> None:
        params, device = self.get_params(deep=False), resolve_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._codebook = draw_codebook(blocks, key_blocks, params, source=source, seed=seed, device=device)
        self._scratch = DeviceCache()
        if self.n_features_in_ < FEW_FEATURES and self.normalize:
            logger.info(
                "embeddings have %d features and normalize=True, which keeps only their direction; normalize=False "
                "may serve so few features better.",
                self.n_features_in_,
            )
        if self.verbose:
            layout = self._codebook.layout
            print(f"[DKVBClassifier] {layout.n_heads} heads × {layout.n_keys} keys placed: {self.key_report_}")

    def _warn_about_few_rows(self) -> None:
        rows, keys = int(self.key_report_["n_rows"]), self.n_keys
        if self._codebook.source == "X" and rows < keys:
            warnings.warn(
                f"the first batch has {rows} distinct rows for {keys} keys a head, and keys never move again; "
                "accuracy may suffer for good. Call init_keys with more (unlabelled) data first, or pass key_data.",
                UserWarning,
                stacklevel=3,
            )

    def _encoder(self) -> Encoder:
        self._layout()
        return self._codebook.encoder(resolve_device(self.device))
