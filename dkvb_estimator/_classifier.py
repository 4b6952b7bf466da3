"""The estimator: scikit-learn's contract around the rooms, nothing else."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from . import _confidence, _counts, _ledger, _ridge
from ._codebook import Encoder, draw_codebook, fingerprint
from ._device import DeviceCache, resolve_device, to_tensor
from ._validation import (
    Layout,
    as_array,
    as_float32,
    check_codes,
    check_integer,
    check_parameters,
    class_weights,
    merge_classes,
    resolve_layout,
)
from ._values import GradientSettings, descend_, read_values

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FEW_FEATURES = 16
HELD_OUT_SHARE = 10
"""One learned row in this many chooses the temperature of ``ridge``."""
DEFAULT_RIDGE_TEMPERATURE = 0.1
"""Temperature of ``ridge`` where there are too few rows to hold any out."""
_LEARNED = ("classes_", "_hits", "_weighted_hits", "_table", "_codes", "_labels", "_weights", "_ledger", "_declared")


class DKVBClassifier(ClassifierMixin, BaseEstimator):
    """Learn classes one after another on frozen features, with a Discrete Key-Value Bottleneck.

    An embedding is projected into many small heads; each head snaps to its nearest key, and only the *value* of that
    key learns. Projection and keys never move, so what was learned about other keys stays. New labels may appear in
    any call of :meth:`partial_fit`.

    Parameters
    ----------
    n_heads : int, default=256
        Heads, c.
    n_keys : int, default=512
        Keys of each head, j; at most 65,536.
    key_dim : int, default=14
        Coordinates of a head, d.
    n_selected : int or "auto", default="auto"
        Nearest keys read in each head, m, 1…16. ``"auto"``: 1; with ``ridge`` min(16, max(1, n_keys // 16)).
    normalize : bool, default=True
        Divide each embedding by its Euclidean length first.
    projection : {"gaussian", "sparse", "chunk", "identity"}, default="gaussian"
        How heads read features. ``chunk`` needs n_heads · key_dim = f; ``identity`` needs one head.
    key_init : {"kmeans", "ema", "ema-faithful", "sample", "gaussian", "uniform"}, default="kmeans"
        How keys are placed. ``ema-faithful`` is the paper's rule, ``ema`` the same, mended.
    key_data : array-like of shape (n, f) or None, default=None
        Unlabelled embeddings to place keys from; None: the first rows learned.
    solver : {"counts", "ridge", "sgd"}, default="counts"
        How values learn: the log share of each class among a key's samples; ridge regression on codes; the paper's
        gradient steps.
    alpha : float, default=1.0
        Ridge penalty in units of the mean hits of a used key.
    smoothing : float, default=1.0
        Pseudo-hits by which ``counts`` pulls a key towards the class prior.
    learning_rate, batch_size, label_smoothing, clip_norm : default=0.3, 256, 0.1, 1.0
        Settings of ``sgd``. A hit moves a value by at most learning_rate / (batch_size · c · m).
    max_iter : int or None, default=None
        ``sgd``: epochs of :meth:`fit` (None: 10). ``ridge``: conjugate gradient steps (None: 10).
    class_weight : dict, "balanced" or None, default=None
        Weights of classes, applied when values are read, solved or stepped.
    device : str, default="auto"
        A torch device; ``"auto"`` is CUDA where there is one.
    random_state : int, RandomState or None, default=None
        Decides projection, keys and the shuffling of ``sgd``.
    verbose : int, default=0
        Above 0, prints a line when keys are placed.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Labels seen or declared, sorted.
    projection_ : ndarray of shape (f, c, d), or csr_array of shape (f, c * d) for ``sparse``
    keys_ : ndarray of shape (c, j, d), float32
    values_ : ndarray of shape (c, j, k), float32
    key_counts_ : ndarray of shape (c, j)
        Weight of the learned samples that selected each key.
    class_counts_ : ndarray of shape (k,)
        Weight of the learned samples of each class.
    key_report_ : dict
        ``unused_share``, ``quantisation_error`` and ``n_rows`` of the key initialisation.
    fingerprint_ : str
        sha256 of projection and keys.
    n_features_in_, n_iter_ : int

    References
    ----------
    Träuble, Goyal, Rahaman, Mozer, Kawaguchi, Bengio, Schölkopf, "Discrete Key-Value Bottleneck", ICML 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from dkvb_estimator import DKVBClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = DKVBClassifier(n_heads=32, n_keys=64, key_dim=8, random_state=0).init_keys(X)
    >>> for first in range(0, 10, 2):  # two new classes at a time
    ...     new = (y == first) | (y == first + 1)
    ...     model = model.partial_fit(X[new], y[new])
    >>> model.classes_.tolist(), bool(model.score(X, y) > 0.9)
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], True)
    """

    def __init__(
        self,
        n_heads: int = 256,
        n_keys: int = 512,
        key_dim: int = 14,
        *,
        n_selected: int | str = "auto",
        normalize: bool = True,
        projection: str = "gaussian",
        key_init: str = "kmeans",
        key_data: Any = None,
        solver: str = "counts",
        alpha: float = 1.0,
        smoothing: float = 1.0,
        learning_rate: float = 0.3,
        batch_size: int = 256,
        label_smoothing: float = 0.1,
        clip_norm: float = 1.0,
        max_iter: int | None = None,
        class_weight: Any = None,
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
        self.key_init = key_init
        self.key_data = key_data
        self.solver = solver
        self.alpha = alpha
        self.smoothing = smoothing
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- learning ------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Forget what was learned, and learn X and y.

        Keys come from :meth:`init_keys` if it was called on this object, else ``key_data``, else X.

        Parameters
        ----------
        X : array-like of shape (n, f)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None

        Returns
        -------
        self
        """
        check_parameters(self.get_params(deep=False))
        given = getattr(self, "_key_source", None) == "init_keys"
        X, y, weights = self._check_learning(X, y, sample_weight, reset=not given)
        self._forget_learned()
        if not given:
            self._start_codebook(X, "X")
        return self._learn(self._encode(X), y, weights, None, self._epochs())

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn more samples; labels never seen before are welcome.

        Parameters
        ----------
        X : array-like of shape (n, f)
        y : array-like of shape (n,)
        classes : array-like or None
            Labels to come, if they are known. Not needed.
        sample_weight : array-like of shape (n,) or None

        Returns
        -------
        self

        Warns
        -----
        UserWarning
            Once, when keys are placed from a first batch with fewer distinct rows than keys.
        """
        check_parameters(self.get_params(deep=False))
        first = not hasattr(self, "keys_")
        X, y, weights = self._check_learning(X, y, sample_weight, reset=first)
        if first:
            self._start_codebook(X, "X")
            self._warn_about_few_rows()
        return self._learn(self._encode(X), y, weights, classes, 1)

    def fit_codes(self, codes: Any, y: Any, sample_weight: Any = None) -> Self:
        """Do what :meth:`fit` does, from codes that :meth:`encode` made with the keys of this object."""
        self._check_has_keys("fit_codes")
        check_parameters(self.get_params(deep=False))
        codes, y, weights = self._check_codes(codes, y, sample_weight)
        self._forget_learned()
        return self._learn(codes, y, weights, None, self._epochs())

    def partial_fit_codes(
        self, codes: Any, y: Any, classes: Any = None, sample_weight: Any = None, epochs: int = 1
    ) -> Self:
        """Do what :meth:`partial_fit` does, from codes that :meth:`encode` made.

        Parameters
        ----------
        codes : ndarray of shape (n, c, m), unsigned integers
        y, classes, sample_weight : as in :meth:`partial_fit`
        epochs : int, default=1
            Passes of ``sgd`` over these codes; a sample's hit counts once all the same.

        Returns
        -------
        self
        """
        self._check_has_keys("partial_fit_codes")
        check_parameters(self.get_params(deep=False))
        check_integer("epochs", epochs)
        codes, y, weights = self._check_codes(codes, y, sample_weight)
        return self._learn(codes, y, weights, classes, epochs)

    def init_keys(self, X: Any) -> Self:
        """Draw the projection and place the keys from unlabelled embeddings, before anything is learned.

        Parameters
        ----------
        X : array-like of shape (n, f)

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the model has learned already: its values belong to its keys.
        """
        check_parameters(self.get_params(deep=False))
        if hasattr(self, "classes_"):
            raise ValueError(
                f"init_keys came after {int(self._hits[0].sum())} hits were learned, whose values belong to the old "
                "keys; expected a model that has learned nothing. Call it on clone(model), then learn again."
            )
        X = as_float32(validate_data(self, as_array(X), dtype=[np.float32, np.float64], reset=True))
        self._draw(X, "init_keys")
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
        return self._encode(self._check_X(X))

    # -- predicting ----------------------------------------------------------------------------------------------

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the pooled values of the nearest used keys: (n, k), or with two classes their difference (n,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of :meth:`predict_proba` (n, k)."""
        return _confidence.log_probabilities(self._logits(X), self._temperature())

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class (n, k), columns in the order of ``classes_``.

        With ``sgd`` at the paper's learning rate they are close to uniform; their order is what it learns.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample (n,)."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    # -- derived state -------------------------------------------------------------------------------------------

    @property
    def values_(self) -> np.ndarray:
        """Value rows (c, j, k), float32."""
        check_is_fitted(self)
        return self._scratch.get("values", self._solve)

    @property
    def key_counts_(self) -> np.ndarray:
        """Weight of the learned samples that selected each key (c, j)."""
        check_is_fitted(self)
        return self._counts().sum(axis=2)

    @property
    def class_counts_(self) -> np.ndarray:
        """Weight of the learned samples of each class (k,)."""
        check_is_fitted(self)
        return self._counts()[0].sum(axis=0) / self._layout().n_selected

    @property
    def fingerprint_(self) -> str:
        """The sha256 of projection and keys: equal fingerprints give equal codes on one machine."""
        self._check_has_keys("fingerprint_")
        return fingerprint(self.projection_, self.keys_, normalize=self.normalize)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_scratch", None)
        return state | {"_schema_version": SCHEMA_VERSION}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = state.pop("_schema_version", 0)
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"the stored model has state version {version}; this dkvb_estimator reads version {SCHEMA_VERSION}. "
                "Load it with the release that wrote it, or fit again."
            )
        super().__setstate__(state)
        if "keys_" in state:
            self._scratch = DeviceCache()

    # -- inside --------------------------------------------------------------------------------------------------

    def _check_learning(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Validate once; rows of weight zero leave here, so that they are as if never given."""
        X, y = validate_data(self, as_array(X), as_array(y), dtype=[np.float32, np.float64], reset=reset)
        check_classification_targets(y)
        return self._drop_weightless(as_float32(X), y, sample_weight)

    def _check_codes(
        self, codes: Any, y: Any, sample_weight: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        y = column_or_1d(as_array(y), warn=True)
        check_classification_targets(y)
        return self._drop_weightless(check_codes(codes, self._layout(), len(y)), y, sample_weight)

    @staticmethod
    def _drop_weightless(
        rows: np.ndarray, y: np.ndarray, sample_weight: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if sample_weight is None:
            return rows, y, None
        weights = _check_sample_weight(
            as_array(sample_weight), rows.reshape(len(rows), -1), dtype=np.float64, ensure_non_negative=True
        )
        kept = weights > 0
        if not kept.any():
            raise ValueError(
                f"all {len(weights)} entries of sample_weight are zero; expected at least one positive weight, for "
                "there is nothing to learn. Pass other weights or none."
            )
        return rows[kept], y[kept], weights[kept]

    def _check_X(self, X: Any) -> np.ndarray:
        return as_float32(validate_data(self, as_array(X), dtype=[np.float32, np.float64], reset=False))

    def _check_has_keys(self, caller: str) -> None:
        check_is_fitted(
            self,
            "keys_",
            msg=f"this %(name)s has no keys yet, which {caller} needs. Call fit, partial_fit or init_keys first.",
        )

    def _layout(self) -> Layout:
        return resolve_layout(self.get_params(deep=False), self.n_features_in_)

    def _epochs(self) -> int:
        return self.max_iter or 10

    def _start_codebook(self, X: np.ndarray, source: str) -> None:
        if self.key_data is not None:
            X, source = self._check_X(self.key_data), "key_data"
        self._draw(X, source)

    def _draw(self, X: np.ndarray, source: str) -> None:
        layout, device = self._layout(), resolve_device(self.device)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        params = self.get_params(deep=False)
        self.projection_, self.keys_, self.key_report_ = draw_codebook(X, layout, params, self._seed, device)
        self._key_source = source
        self._scratch = DeviceCache()
        if X.shape[1] < FEW_FEATURES and self.normalize:
            logger.info(
                "embeddings have %d features and normalize=True, which keeps only their direction; normalize=False "
                "may serve so few features better.",
                X.shape[1],
            )
        if self.verbose:
            print(f"[DKVBClassifier] {layout.n_heads} heads × {layout.n_keys} keys placed: {self.key_report_}")

    def _warn_about_few_rows(self) -> None:
        rows, keys = int(self.key_report_["n_rows"]), self.n_keys
        if self._key_source == "X" and rows < keys:
            warnings.warn(
                f"the first batch has {rows} distinct rows for {keys} keys a head, and keys never move again; "
                "accuracy may suffer for good. Call init_keys with more (unlabelled) data first, or pass key_data.",
                UserWarning,
                stacklevel=3,
            )

    def _encoder(self) -> Encoder:
        def make() -> Encoder:
            device = resolve_device(self.device)
            return Encoder(self.projection_, self.keys_, normalize=self.normalize, device=device)

        return self._scratch.get("encoder", make)

    def _encode(self, X: np.ndarray) -> np.ndarray:
        return self._encoder().encode(X, self._layout().n_selected)

    def _forget_learned(self) -> None:
        for name in _LEARNED:
            self.__dict__.pop(name, None)

    def _learn(
        self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None, classes: Any, epochs: int
    ) -> Self:
        self._grow_classes(y, classes)
        labels = np.searchsorted(self.classes_, y)
        self._count(codes, labels, weights)
        if self.solver == "sgd":
            self._descend(codes, labels, weights, epochs)
        self._remember(codes, y, weights)
        self.n_iter_ = {"counts": 1, "ridge": self._epochs(), "sgd": epochs}[self.solver]
        self._scratch.drop("values", "table", "usable", "temperature")
        return self

    def _grow_classes(self, y: np.ndarray, declared: Any) -> None:
        """Give every new label a column; columns move where a label sorts in between."""
        known = getattr(self, "classes_", None)
        everything = merge_classes(known, y)
        if declared is not None:
            everything = merge_classes(everything, np.asarray(declared))
            self._declared = merge_classes(getattr(self, "_declared", None), np.asarray(declared))
        shape = (*self.keys_.shape[:2], 0)
        old = np.array([], dtype=np.int64) if known is None else np.searchsorted(everything, known)
        self.classes_, n_classes = everything, len(everything)
        self._hits = _counts.add_columns(getattr(self, "_hits", np.zeros(shape, np.uint32)), old, n_classes)
        if hasattr(self, "_weighted_hits"):
            self._weighted_hits = _counts.add_columns(self._weighted_hits, old, n_classes)
        if hasattr(self, "_labels"):
            self._labels = [old[labels] for labels in self._labels]
        if self.solver == "sgd":
            self._grow_table(old, n_classes)

    def _grow_table(self, old: np.ndarray, n_classes: int) -> None:
        """A new class starts from the hidden column, which has learned to be none of the classes seen."""
        table = getattr(self, "_table", np.zeros((*self.keys_.shape[:2], 1), np.float32))
        grown = np.repeat(table[:, :, -1:], n_classes + 1, axis=2)
        grown[:, :, old] = table[:, :, :-1]
        self._table = grown

    def _count(self, codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> None:
        shape = self._hits.shape
        if weights is not None and not hasattr(self, "_weighted_hits"):
            self._weighted_hits = self._hits.astype(np.float64)
        hits = _counts.count_hits(shape, codes, labels, None)
        self._hits = self._hits + hits.astype(np.uint32)
        if hasattr(self, "_weighted_hits"):
            weighted = hits if weights is None else _counts.count_hits(shape, codes, labels, weights)
            self._weighted_hits = self._weighted_hits + weighted

    def _counts(self) -> np.ndarray:
        """Class counts of every key (c, j, k): integers until a weight arrives."""
        return getattr(self, "_weighted_hits", self._hits)

    def _remember(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> None:
        """Note each sample's hash; ``ridge``, which solves from rows, keeps the rows too."""
        if self.solver == "sgd":
            return
        hashes, ones = _ledger.hash_samples(codes, y), np.ones(len(codes)) if weights is None else weights
        if self.solver == "counts":
            return self._append(_ledger=_ledger.with_weights(hashes, ones))
        labels = np.searchsorted(self.classes_, y)
        self._append(_ledger=hashes, _codes=codes, _labels=labels, _weights=ones)

    def _append(self, **blocks: np.ndarray) -> None:
        for name, block in blocks.items():
            setattr(self, name, [*getattr(self, name, []), block])

    def _descend(
        self, codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, epochs: int
    ) -> None:
        device = resolve_device(self.device)
        sample_weights = np.ones(len(codes)) if weights is None else weights
        per_class = class_weights(self.class_weight, self.classes_, self.class_counts_)
        if per_class is not None:
            sample_weights = sample_weights * per_class[labels]
        settings = GradientSettings(
            self.learning_rate,
            self.batch_size,
            self.label_smoothing,
            self.clip_norm,
            n_unseen=0 if hasattr(self, "_declared") else 1,
        )
        rng = np.random.default_rng([self._seed, int(self._hits[0].sum())])
        table = to_tensor(self._table.copy(), device)
        tensors = [to_tensor(rows, device) for rows in (codes, labels, sample_weights.astype(np.float32))]
        descend_(table, *tensors, settings, epochs, rng)
        self._table = table.cpu().numpy()

    def _solve(self) -> np.ndarray:
        """Compute the values from what was learned."""
        if self.solver == "sgd":
            return self._table[:, :, :-1]
        per_class = class_weights(self.class_weight, self.classes_, self.class_counts_)
        if self.solver == "counts":
            return _counts.counts_to_values(self._counts(), self.class_counts_, per_class, self.smoothing)
        codes, labels, weights, _ = self._rows()
        return self._ridge(codes, labels, weights if per_class is None else weights * per_class[labels])

    def _rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return codes, labels, weights and hashes of the distinct rows, as a function of the multiset learned."""
        positions, hashes, weights = _ledger.merge_rows(*map(np.concatenate, (self._ledger, self._weights)))
        return np.concatenate(self._codes)[positions], np.concatenate(self._labels)[positions], weights, hashes

    def _ridge(self, codes: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return _ridge.solve_ridge(codes, labels, weights, self._hits.shape, float(self.alpha), self._epochs())

    def _temperature(self) -> float:
        if self.solver != "ridge":
            return 1.0
        return self._scratch.get("temperature", self._fit_temperature)

    def _fit_temperature(self) -> float:
        """Solve without a tenth of the rows, chosen by hash, and fit the temperature on them."""
        codes, labels, weights, hashes = self._rows()
        held = hashes % HELD_OUT_SHARE == 0
        if not held.any() or held.all():
            return DEFAULT_RIDGE_TEMPERATURE
        values = torch.from_numpy(self._ridge(codes[~held], labels[~held], weights[~held]))
        logits = read_values(torch.from_numpy(codes[held].astype(np.int64)), values).numpy()
        return _confidence.fit_temperature(logits, labels[held], weights[held])

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = self._check_X(X)
        encoder, layout, device = self._encoder(), self._layout(), resolve_device(self.device)
        table = self._scratch.get("table", lambda: to_tensor(self.values_, device))
        usable = self._scratch.get("usable", lambda: to_tensor(self._hits.any(axis=2), device))
        logits = [
            read_values(encoder.nearest_usable(rows, layout.n_selected, usable), table, usable)
            for rows in np.array_split(X, range(2048, len(X), 2048))
        ]
        return torch.cat(logits).cpu().numpy()


