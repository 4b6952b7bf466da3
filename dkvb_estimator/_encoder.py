"""The frozen half: a scikit-learn transformer from embeddings to codes.

Enters: embeddings (n, f), in memory, in blocks or lazy. Leaves: codes (n, c · m) and the attributes of a
:class:`Codebook`. Must not know: how values are learned.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, check_memory, validate_data

from ._atomic import all_or_nothing
from ._blocks import comes_in_blocks, is_lazy, refuse_blocks, split_blocks, stream_blocks, weighty
from ._device import resolve_device
from ._encoding import Block, Codebook, DeviceEncoder, Sketches, draw_codebook
from ._labels import as_labels, check_labels
from ._progress import Progress
from ._state_checks import check_encoder_state
from ._validation import (
    FLOATS,
    Layout,
    ReadsNamesOnce,
    as_array,
    as_float32,
    check_axes,
    check_codes,
    check_encoder,
    check_unchanged,
    drop_weightless,
)
from .distributed import by_blocks, fold, is_dask, map_blocks

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
SHOWN = ("feature_names_in_", "key_report_", "keys_", "n_features_in_", "projection_")
"""Stored attributes, which notebooks show."""
FEW_FEATURES = 16


class Codes(np.ndarray):
    """Array of codes (n, c · m) with the encoder that made them, which ``DKVBClassifier("precomputed")`` needs.

    Slices, selections of rows and pickles keep the encoder. ``np.asarray`` and NumPy's files lose it;
    ``Codes.of(array, encoder)`` attaches it again.

    Attributes
    ----------
    encoder : KeyEncoder or None

    Examples
    --------
    >>> import numpy as np
    >>> from dkvb_estimator import Codes, KeyEncoder
    >>> X = np.random.default_rng(0).standard_normal((50, 6))
    >>> codes = KeyEncoder(4, 8, 2, random_state=0).fit_transform(X)
    >>> codes[:3].encoder is codes.encoder, Codes.of(np.asarray(codes), codes.encoder).shape
    (True, (50, 4))
    """

    encoder: KeyEncoder | None

    @classmethod
    def of(cls, codes: np.ndarray, encoder: KeyEncoder) -> Codes:
        """Attach to codes (n, c · m) the encoder that made them."""
        view = np.asarray(codes).view(cls)
        view.encoder = encoder
        return view

    def __array_finalize__(self, origin: Any) -> None:
        self.encoder = getattr(origin, "encoder", None)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """Return plain arrays and numbers from computations, whose results are not codes."""
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain

    def __reduce__(self) -> Any:
        pickled: Any = super().__reduce__()
        return *pickled[:2], (pickled[2], self.encoder)

    def __setstate__(self, state: Any) -> None:
        array, self.encoder = state
        super().__setstate__(array)


class KeyEncoder(ReadsNamesOnce, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Map embeddings to the nearest keys of many heads: the frozen half of a Discrete Key-Value Bottleneck.

    Each embedding is projected into many small heads, and each head selects the nearest of its keys. :meth:`fit` draws
    the projection and places the keys from unlabelled embeddings; they never change afterwards.

    Parameters
    ----------
    n_heads : int, default=1024
        Number of heads, c.
    n_keys : int, default=256
        Number of keys per head, j; at most 65,536.
    key_dim : int, default=2
        Number of coordinates per head, d.
    n_selected : int or "auto", default="auto"
        Number of nearest keys selected per head, m, from 1 to 16. ``"auto"`` is 1.
    normalize : bool, default=True
        Whether each embedding is first divided by its Euclidean length.
    projection : {"orthogonal", "gaussian", "sparse", "chunk", "identity", "learned"}, default="orthogonal"
        How features are projected into heads. ``orthogonal``: random rotations. ``gaussian``: the paper's projection.
        ``sparse``: mostly zeros. ``chunk``: consecutive features, which needs n_heads · key_dim = f. ``identity``: all
        features, which needs n_heads = 1. ``learned``: uses labels, see ``docs/experiments/projections.md``.
    density : float in (0, 1] or "auto", default="auto"
        Share of non-zero entries in a ``sparse`` projection. ``"auto"`` is 1 / sqrt(f).
    key_init : {"kmeans", "ema", "ema-faithful", "sample", "gaussian", "uniform"}, default="kmeans"
        How keys are placed. ``ema-faithful`` is the paper's rule; ``ema`` is the same with two numerical fixes.
    feature_blocks : sequence of int or None, default=None
        Widths of consecutive blocks of features, such as several layers of a network; they add up to f. Each block is
        normalized separately and has its own heads, which see nothing else. Heads are divided evenly among blocks.
        None is one block.
    memory : str, joblib.Memory or None, default=None
        Folder in which joblib caches placed keys and codes, as in :class:`sklearn.pipeline.Pipeline`. The same rows
        are then encoded once per encoder, also by clones and in later processes: a grid search over a classifier's
        settings encodes each fold once. The folder grows until ``joblib.Memory(folder).clear()``. None caches nothing.
    device : str, default="auto"
        A torch device; ``"auto"`` is CUDA if available, else the CPU.
    random_state : int, RandomState or None, default=None
        Determines the projection and the keys.
    verbose : int, default=0
        Above 0, shows progress on stderr: a bar that disappears when the work is done, or one line per task if
        ``tqdm`` is not installed.

    Attributes
    ----------
    keys_ : ndarray of shape (c, j, d), float32
    projection_ : ndarray of shape (f, c, d), or csr_array of shape (f, c * d) for ``sparse``
    key_mask_ : ndarray of shape (c, j), bool
        Keys that exist. All do until a classifier prunes them, which pads heads to one length.
    key_report_ : dict
        ``unused_share``, ``quantisation_error``, ``n_rows`` and ``novelty_unit`` of the key placement.
    fingerprint_ : str
        sha256 of projection and keys. Encoders with equal fingerprints give equal codes on one machine.
    n_features_in_ : int
        Number of features, f.

    See Also
    --------
    DKVBClassifier : Learns classes from codes.

    References
    ----------
    Träuble, Goyal, Rahaman, Mozer, Kawaguchi, Bengio, Schölkopf, "Discrete Key-Value Bottleneck", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from dkvb_estimator import KeyEncoder
    >>> X = np.random.default_rng(0).standard_normal((300, 20))
    >>> encoder = KeyEncoder(n_heads=4, n_keys=8, key_dim=3, random_state=0).fit(X)
    >>> encoder.transform(X[:2]).shape, encoder.keys_.shape
    ((2, 4), (4, 8, 3))
    """

    _codebook: Codebook
    n_features_in_: int
    # The link behind the question mark in scikit-learn's HTML representation.
    _doc_link_module = "dkvb_estimator"
    _doc_link_template = "https://arxiv.org/abs/2207.11240"

    def __init__(
        self,
        n_heads: int = 1024,
        n_keys: int = 256,
        key_dim: int = 2,
        *,
        n_selected: int | str = "auto",
        normalize: bool = True,
        projection: str = "orthogonal",
        density: float | str = "auto",
        key_init: str = "kmeans",
        feature_blocks: Sequence[int] | None = None,
        memory: Any = None,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_heads = n_heads
        self.n_keys = n_keys
        self.key_dim = key_dim
        self.n_selected = n_selected
        self.normalize = normalize
        self.projection = projection
        self.density = density
        self.key_init = key_init
        self.feature_blocks = feature_blocks
        self.memory = memory
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Draw the projection and place the keys.

        Keys depend only on the set of rows, so blocks of any size and order give the same keys.

        Parameters
        ----------
        X : array-like of shape (n, f), or an iterable of such blocks
            An iterable, such as torch's ``DataLoader``, is read once with one block in memory at a time; it may yield
            pairs of X and y. A dask array is read by dask's workers.
        y : array-like of shape (n,) or None
            Labels; only ``projection="learned"`` uses them.
        sample_weight : array-like of shape (n,) or None
            Rows of weight zero are left out; other weights have no effect.

        Returns
        -------
        self

        Examples
        --------
        >>> import numpy as np
        >>> from dkvb_estimator import KeyEncoder
        >>> X = np.random.default_rng(0).standard_normal((300, 20))
        >>> whole, blocks = (KeyEncoder(4, 8, 3, random_state=0) for _ in range(2))
        >>> fingerprint = whole.fit(X).fingerprint_
        >>> fingerprint == blocks.fit(X[start : start + 100] for start in (200, 0, 100)).fingerprint_
        True
        """
        return self._fit(X, y, sample_weight, Progress.of(self))

    def _fit(self, X: Any, y: Any, sample_weight: Any, progress: Progress) -> Self:
        params = self.get_params(deep=False)
        check_encoder(params)
        self.__dict__.pop("_codebook", None)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if is_dask(X):
            sketches = self._sketch_on_workers(X, y, sample_weight, seed)
        else:
            blocks, n_rows = self._check_weighty(X, y, sample_weight), (*getattr(X, "shape", ()), None)[0]
            sketches = Sketches(params, seed, labelled=self._reads_labels)
            sketches.look_at(blocks, n_rows=n_rows, progress=progress)
        settings = {name: params[name] for name in params if name not in ("memory", "verbose")}
        self._codebook = self._cached(_draw_codebook)(sketches, settings, seed, progress)
        self._suggest_settings()
        return self

    @by_blocks
    def transform(self, X: Any) -> Codes:
        """Return the nearest keys of each head, nearest first.

        Parameters
        ----------
        X : array-like of shape (n, f)

        Returns
        -------
        Codes of shape (n, c · m), uint8 or uint16
            A dask array if X is one.
        """
        self._check_fitted("transform")
        codes = self._encode_cached(self._check_X(X), self.device, Progress.of(self))
        codes = codes.reshape(len(codes), codes.shape[1] * codes.shape[2])
        return Codes.of(codes, copy.copy(self))  # keeps its keys if this encoder is fitted again

    def inverse_transform(self, codes: Any) -> np.ndarray:
        """Return the coordinates of the keys that codes name.

        Parameters
        ----------
        codes : array-like of shape (n, c · m), unsigned integers

        Returns
        -------
        ndarray of shape (n, c · d), float32
            Coordinates in the heads; the mean if a head selects several keys.
        """
        self._check_fitted("inverse_transform")
        codes = check_codes(codes, self._layout(), self._codebook.mask)
        keys = self.keys_[np.arange(codes.shape[1])[None, :, None], codes]
        return keys.mean(axis=2).reshape(len(codes), -1)

    @by_blocks
    def distances(self, X: Any) -> np.ndarray:
        """Return the squared Euclidean distance from each head to its nearest key (n, c), float32.

        Parameters
        ----------
        X : array-like of shape (n, f)
        """
        self._check_fitted("distances")
        encoder = self._on(self.device)
        return encoder.distances(self._check_X(X), encoder.search(self._codebook.mask))

    @property
    def projection_(self) -> Any:
        """The frozen projection (f, c, d)."""
        self._check_fitted("projection_")
        return self._codebook.projection

    @property
    def keys_(self) -> np.ndarray:
        """The frozen keys (c, j, d), float32."""
        self._check_fitted("keys_")
        return self._codebook.keys

    @property
    def key_mask_(self) -> np.ndarray:
        """Which keys exist and are not padding (c, j), bool."""
        mask = self._codebook.mask
        return np.ones(self.keys_.shape[:2], dtype=bool) if mask is None else mask

    @property
    def key_report_(self) -> dict[str, float]:
        """Report on the key placement: share of unused keys, quantisation error, number of rows."""
        self._check_fitted("key_report_")
        return dict(self._codebook.report)

    @property
    def fingerprint_(self) -> str:
        """The sha256 of projection and keys; equal fingerprints give equal codes on one machine."""
        self._check_fitted("fingerprint_")
        return self._codebook.fingerprint()

    @property
    def _n_features_out(self) -> int:
        layout = self._layout()
        return layout.n_heads * layout.n_selected

    @property
    def _reads_labels(self) -> bool:
        return self.projection == "learned"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_codebook")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.projection == "learned"
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __copy__(self) -> Self:
        """Return an encoder with the same codebook; neither encoder modifies it."""
        twin = object.__new__(type(self))
        twin.__dict__.update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_codebook" in state:  # plain arrays, so that skops has to trust only the estimator
            state["_codebook"] = self._codebook.state()
        return state | {"_schema_version": SCHEMA_VERSION}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {"feature_blocks": None} | dict(state)  # older releases do not store it
        check_schema(state.pop("_schema_version", 0))
        check_encoder_state(state)
        if "_codebook" in state:
            state["_codebook"] = Codebook.from_state(state["_codebook"])
        super().__setstate__(state)

    def _pruned(self, used: np.ndarray) -> tuple[KeyEncoder, np.ndarray]:
        """Return an encoder with only the used keys (c, j), bool, and their old positions (c, fewer keys)."""
        fewer = copy.copy(self)
        fewer._codebook, order = self._codebook.pruned(used)
        return fewer, order

    def _light(self, method: str) -> Self:
        """Return a copy for workers, which call ``method``."""
        light = copy.copy(self)
        light.verbose = 0  # workers have no terminal
        light._sklearn_output_config = {}  # dask arrays hold NumPy arrays
        return light

    def _cached(self, function: Any) -> Any:
        if self.memory is None:
            return function
        folder = self.memory
        memory = check_memory(os.fspath(folder) if isinstance(folder, os.PathLike) else folder)
        return memory.cache(function, ignore=["progress", *(["device"] if function is _encode_rows else [])])

    def _check_fitted(self, caller: str) -> None:
        check_is_fitted(
            self, msg=f"this %(name)s has no keys, which {caller} needs; expected a fitted encoder. Call fit first."
        )

    def _check_X(self, X: Any) -> np.ndarray:
        refuse_blocks(X)
        return as_float32(validate_data(self, as_array(X), dtype=FLOATS, reset=False))

    def _layout(self) -> Layout:
        """Return the codebook's shape; refuse settings that changed since it was drawn."""
        params = self.get_params(deep=False)
        check_encoder(params)
        check_unchanged(self._codebook.settings, params)
        return self._codebook.layout

    def _on(self, device: str) -> DeviceEncoder:
        """Return the codebook on a device, ready to encode."""
        self._layout()
        return self._codebook.encoder(resolve_device(device))

    def _encode_cached(self, X: np.ndarray, device: str, progress: Progress) -> np.ndarray:
        """Return the codes (n, c, m) of valid rows, from ``memory`` if it holds them."""
        codes: np.ndarray = self._cached(_encode_rows)(self, X, device, progress)
        return codes

    def _check_blocks(self, pairs: Iterable[tuple[Any, Any]], *, reset: bool = True) -> Iterator[Block]:
        """Validate blocks one by one; with ``reset``, the first one sets the number of features."""
        for rows, labels in pairs:
            if labels is None:
                rows = validate_data(self, as_array(rows), dtype=FLOATS, reset=reset)
            else:
                rows, labels = validate_data(self, as_array(rows), as_labels(labels), dtype=FLOATS, reset=reset)
                labels = check_labels(labels)
            yield as_float32(rows), labels
            reset = False

    def _check_weighty(self, X: Any, y: Any, sample_weight: Any) -> Iterator[Block]:
        """Yield valid rows of positive weight, with labels if the projection uses them."""
        labelled = self._reads_labels
        if sample_weight is not None and comes_in_blocks(X):
            raise TypeError(
                f"sample_weight is given, but X is a {type(X).__name__}, an iterable of blocks; expected "
                "sample_weight=None. Leave rows with weight zero out of the blocks."
            )
        if sample_weight is not None and is_lazy(X) and not (labelled and y is None):
            blocks = stream_blocks(X, y if labelled else None, sample_weight)
            yield from self._check_blocks(block[:2] for block in blocks)
            return
        for rows, labels in self._check_blocks(split_blocks(X, y, labelled=labelled)):
            if sample_weight is None:
                yield rows, labels
            else:
                kept = drop_weightless(rows, np.arange(len(rows)), sample_weight)[1]
                yield rows[kept], None if labels is None else labels[kept]

    def _sketch_on_workers(self, X: Any, y: Any, weights: Any, seed: int) -> Sketches:
        check_features(self, X, reset=True)
        labels = y if self._reads_labels else None
        parts = map_blocks(self, KeyEncoder._sketch_block, X, labels, weights, extra=(seed,))
        sketches: Sketches = fold(parts, Sketches.merged)
        return sketches

    def _sketch_block(self, X: np.ndarray, y: Any, weights: Any, seed: int) -> Sketches:
        """Return the sketches of a worker's block."""
        X, y, _ = weighty(X, y, weights)
        pairs = split_blocks(X, y, labelled=self._reads_labels) if len(X) else iter([])
        sketches = Sketches(self.get_params(deep=False), seed, labelled=self._reads_labels)
        return sketches.look_at(self._check_blocks(pairs, reset=False))

    def _suggest_settings(self) -> None:
        if self.n_features_in_ < FEW_FEATURES and self.normalize:
            logger.info(
                "embeddings have %d features, and normalize=True keeps only their direction; normalize=False may give "
                "better accuracy with so few features.",
                self.n_features_in_,
            )

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        """Show stored attributes in notebooks; scikit-learn would read all of them, and so hash the keys."""
        return show_stored(self, SHOWN, doc_link)


def _draw_codebook(sketches: Sketches, params: dict[str, Any], seed: int, progress: Progress) -> Codebook:
    return draw_codebook(sketches, params, seed=seed, device=resolve_device(params["device"]), progress=progress)


def _encode_rows(encoder: KeyEncoder, X: np.ndarray, device: str, progress: Progress) -> np.ndarray:
    return encoder._on(device).encode(X, progress)


def check_features(estimator: Any, X: Any, *, reset: bool) -> None:
    """Check the shape of lazy rows; their content is checked block by block."""
    check_axes(X)
    validate_data(estimator, X, reset=reset, skip_check_array=True)


def check_schema(version: int) -> None:
    """Refuse a stored state of another version."""
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"_schema_version={version!r} of the stored model is not supported; expected {SCHEMA_VERSION}, which this "
            "release of dkvb_estimator reads. Load the model with the release that wrote it, or fit a new one."
        )


def show_stored(estimator: Any, names: tuple[str, ...], doc_link: str) -> Any:
    """Return scikit-learn's table of fitted attributes, restricted to some names."""
    shown = SimpleNamespace(**{name: getattr(estimator, name) for name in names if hasattr(estimator, name)})
    table = BaseEstimator._get_fitted_attr_html(shown, doc_link)
    table.estimator_class = type(estimator)
    return table
