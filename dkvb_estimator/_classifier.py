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
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ._codebook import Encoder, draw_codebook, fingerprint
from ._confidence import log_probabilities
from ._device import DeviceCache, resolve_device, to_tensor
from ._learned import Learned
from ._nearest import code_dtype
from ._solvers import n_steps, solve_temperature, solve_values, step_table
from ._validation import (
    FROZEN,
    Layout,
    as_array,
    as_float32,
    check_codes,
    check_integer,
    check_parameters,
    check_unchanged,
    drop_weightless,
    resolve_layout,
)
from ._values import read_values

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FEW_FEATURES = 16


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
        self.__dict__.pop("_learned", None)
        if not given:
            self._start_codebook(X, "X")
        return self._learn(self._encode(X), y, weights, None, n_steps(self.get_params(deep=False)))

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
        self.__dict__.pop("_learned", None)
        return self._learn(codes, y, weights, None, n_steps(self.get_params(deep=False)))

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
        if hasattr(self, "_learned"):
            raise ValueError(
                f"init_keys came after {self._learned.n_samples} samples were learned, whose values belong to the old "
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

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the pooled values of the nearest used keys: (n, k), or with two classes their difference (n,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of :meth:`predict_proba` (n, k)."""
        logits, params = self._logits(X), self.get_params(deep=False)
        temperature = self._scratch.get("temperature", lambda: solve_temperature(self._learned, params))
        return log_probabilities(logits, temperature)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class (n, k), columns in the order of ``classes_``.

        With ``sgd`` at the paper's learning rate they are close to uniform; their order is what it learns.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample (n,)."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def forget(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Take away one learned copy of each sample: afterwards the model is as if it had never seen them.

        With ``counts`` and ``ridge`` that is exact, as far as keys do not stem from the same samples; see
        ``forgetting_is_exact_``. With ``sgd`` it is weak: keys that the samples hit more often than all others
        together lose their values, and other traces stay.

        Parameters
        ----------
        X : array-like of shape (n, f)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None
            The weights they were learned with.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a sample was never learned; nothing is changed then.
        """
        check_is_fitted(self)
        X, y, weights = self._check_learning(X, y, sample_weight, reset=False)
        return self._forget(self._encode(X), y, weights)

    def forget_codes(self, codes: Any, y: Any, sample_weight: Any = None) -> Self:
        """Do what :meth:`forget` does, from codes that :meth:`encode` made."""
        check_is_fitted(self)
        return self._forget(*self._check_codes(codes, y, sample_weight))

    def forget_classes(self, labels: Any) -> Self:
        """Take away all samples of some classes (an array-like of labels); ``counts`` and ``ridge`` only."""
        check_is_fitted(self)
        self._refuse_sgd("forget_classes", "which keeps no samples apart. Use forget(X, y) with the class's samples")
        self._learned.forget_classes(np.unique(np.asarray(labels)))
        return self._after_change()

    def merge(self, other: DKVBClassifier) -> Self:
        """Add what another model with the same keys has learned: as if this one had learned both.

        Raises
        ------
        ValueError
            If the models differ in solver, keys, projection or ``n_selected``, or use ``sgd``.
        """
        check_is_fitted(self)
        check_is_fitted(other)
        self._refuse_sgd("merge", "whose steps depend on each other. Learn in sequence with partial_fit")
        mine, theirs = ((model.solver, model._layout(), model.fingerprint_) for model in (self, other))
        if mine != theirs:
            raise ValueError(
                f"the other model has solver={theirs[0]!r}, {theirs[1]} and keys {theirs[2][:12]}, this one "
                f"solver={mine[0]!r}, {mine[1]} and keys {mine[2][:12]}; expected the same. Start both from copies of "
                "one model after init_keys."
            )
        self._learned: Learned = self._learned.merge(other._learned)
        return self._after_change()

    @property
    def classes_(self) -> np.ndarray:
        """Labels seen or declared, sorted (k,)."""
        check_is_fitted(self)
        return self._learned.classes

    @property
    def values_(self) -> np.ndarray:
        """Value rows (c, j, k), float32."""
        check_is_fitted(self)
        params = self.get_params(deep=False)
        return self._scratch.get("values", lambda: solve_values(self._learned, params))

    @property
    def key_counts_(self) -> np.ndarray:
        """Weight of the learned samples that selected each key (c, j)."""
        check_is_fitted(self)
        return self._learned.counts.sum(axis=2)

    @property
    def class_counts_(self) -> np.ndarray:
        """Weight of the learned samples of each class (k,)."""
        check_is_fitted(self)
        return self._learned.class_counts

    @property
    def fingerprint_(self) -> str:
        """The sha256 of projection and keys: equal fingerprints give equal codes on one machine."""
        self._check_has_keys("fingerprint_")
        return fingerprint(self.projection_, self.keys_, normalize=self.normalize)

    @property
    def forgetting_is_exact_(self) -> bool:
        """Whether :meth:`forget` leaves no trace: an additive solver, and keys from ``init_keys`` or ``key_data``.

        You vouch that those rows are not among the learned: keys keep the shape of the data they were placed on.
        """
        check_is_fitted(self)
        return self.solver != "sgd" and self._key_source != "X"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_learned")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_scratch", None)
        if "_learned" in state:  # plain arrays: then skops needs to trust no class but the estimator
            state["_learned"] = dict(vars(self._learned))
        return state | {"_schema_version": SCHEMA_VERSION}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_schema_version", 0)
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"the stored model has state version {version}; this dkvb_estimator reads version {SCHEMA_VERSION}. "
                "Load it with the release that wrote it, or fit again."
            )
        if "_learned" in state:
            state["_learned"] = Learned.from_state(state["_learned"])
        super().__setstate__(state)
        if "keys_" in state:
            self._scratch = DeviceCache()

    def _check_learning(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Validate once; rows of weight zero leave here, so that they are as if never given."""
        X, y = validate_data(self, as_array(X), as_array(y), dtype=[np.float32, np.float64], reset=reset)
        check_classification_targets(y)
        return drop_weightless(as_float32(X), y, sample_weight)

    def _check_codes(self, codes: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        y = column_or_1d(as_array(y), warn=True)
        check_classification_targets(y)
        codes = check_codes(codes, self._layout(), len(y))
        codes = codes.astype(code_dtype(self.n_keys), copy=False)  # another width would have another hash
        return drop_weightless(codes, y, sample_weight)

    def _check_X(self, X: Any) -> np.ndarray:
        return as_float32(validate_data(self, as_array(X), dtype=[np.float32, np.float64], reset=False))

    def _check_has_keys(self, caller: str) -> None:
        check_is_fitted(
            self,
            "keys_",
            msg=f"this %(name)s has no keys yet, which {caller} needs. Call fit, partial_fit or init_keys first.",
        )

    def _layout(self) -> Layout:
        """Return the codebook's shape, after checking that the settings are still those it was drawn with."""
        check_unchanged(self._drawn_with, self.get_params(deep=False))
        return resolve_layout(self._drawn_with, self.n_features_in_)

    def _start_codebook(self, X: np.ndarray, source: str) -> None:
        if self.key_data is not None:
            X, source = self._check_X(self.key_data), "key_data"
        self._draw(X, source)

    def _draw(self, X: np.ndarray, source: str) -> None:
        params, device = self.get_params(deep=False), resolve_device(self.device)
        layout = resolve_layout(params, self.n_features_in_)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._drawn_with = {name: params[name] for name in FROZEN}
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

    def _learn(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None, classes: Any, epochs: int) -> Self:
        learned: Learned | None = getattr(self, "_learned", None)
        params = self.get_params(deep=False)
        if learned is None:
            learned = Learned(self.solver, self.keys_.shape[0], self.keys_.shape[1], codes.shape[2])
        labels = learned.learn(codes, y, weights, classes)
        self._learned = learned
        if self.solver == "sgd":
            samples, device = (codes, labels, weights), resolve_device(self.device)
            step_table(learned, samples, params, epochs=epochs, seed=self._seed, device=device)
        self.n_iter_ = {"counts": 1, "ridge": n_steps(params), "sgd": epochs}[self.solver]
        return self._after_change()

    def _refuse_sgd(self, method: str, reason: str) -> None:
        if self.solver == "sgd":
            raise ValueError(f"{method} was called with solver='sgd', {reason}, or choose 'counts' or 'ridge'.")

    def _forget(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Self:
        if self.solver == "sgd":
            self._learned.mask(codes, y)
        else:
            self._learned.forget(codes, y, weights)
        return self._after_change()

    def _after_change(self) -> Self:
        """Drop what was derived; a model whose last sample was forgotten is not fitted."""
        self._scratch.drop("values", "table", "usable", "temperature")
        if self._learned.n_samples == 0:
            del self._learned
        return self

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = self._check_X(X)
        encoder, layout, device = self._encoder(), self._layout(), resolve_device(self.device)
        table = self._scratch.get("table", lambda: to_tensor(self.values_, device))
        usable = self._scratch.get("usable", lambda: to_tensor(np.asarray(self._learned.hits.any(axis=2)), device))
        logits = [
            read_values(encoder.nearest_usable(rows, layout.n_selected, usable), table, usable)
            for rows in np.array_split(X, range(2048, len(X), 2048))
        ]
        return torch.cat(logits).cpu().numpy()
