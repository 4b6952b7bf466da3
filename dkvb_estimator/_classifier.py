"""The half that learns: a scikit-learn classifier of codes.

Enters: embeddings (n, f), or codes, and labels. Leaves: predictions. Must not know: how keys are placed, how values
are solved.
"""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ._atomic import all_or_nothing
from ._blocks import is_lazy, refuse_blocks, stream_blocks, weighty
from ._device import DeviceCache, resolve_device
from ._encoder import SCHEMA_VERSION, Codes, KeyEncoder, check_features, check_schema, show_stored
from ._encoding import KeySearch
from ._labels import as_classes, as_labels, check_known_labels, check_labels, positions_of
from ._progress import Progress
from ._state_checks import check_classifier_state
from ._validation import (
    FLOATS,
    JOINT,
    Layout,
    ReadsNamesOnce,
    as_array,
    as_float32,
    check_codes,
    check_mergeable,
    check_parameters,
    check_unchanged,
    code_dtype,
    drop_weightless,
    gradient_settings,
    keeps_sums,
    refuse_forgetful,
    refuse_renamed,
    refuse_sgd,
    refuse_weights,
    short,
)
from ._values import (
    Book,
    Learned,
    Prior,
    Solution,
    distances_to_classes,
    fit_temperature,
    log_probabilities,
    make_reader,
    solve_jointly,
    solve_values,
    step_table,
    sum_codes,
    value_settings,
)
from .distributed import by_blocks, is_dask, map_blocks, merge_learned
from .inspection import KeyUsage, count_key_usage

PREDICT_ROWS = 2048
PRECOMPUTED = "precomputed"
SHOWN = ("classes_", "feature_names_in_", "n_features_in_", "n_iter_")
"""Attributes that notebooks show: those that are stored."""
MUCH_STATE_BYTES = 4 * 2**30
"""Size of codes in memory above which a warning is given."""


class DKVBClassifier(ReadsNamesOnce, ClassifierMixin, BaseEstimator):
    """Discrete Key-Value Bottleneck: learn classes one after another on frozen features.

    An encoder maps each embedding to the nearest keys of many small heads, and only the *values* of these keys are
    learned. The projection and the keys never move, so new classes do not overwrite old ones. Any call of
    :meth:`partial_fit` may introduce new labels.

    Parameters
    ----------
    encoder : KeyEncoder, FrozenEstimator, "precomputed" or None, default=None
        Maps embeddings to codes. A :class:`KeyEncoder` is cloned and fitted on the first rows learned; None is
        ``KeyEncoder()``. ``FrozenEstimator(encoder)`` keeps the keys of a fitted encoder, which makes forgetting exact
        and models mergeable; X may then also be :class:`Codes` from its ``transform``. With ``"precomputed"``, X is
        always :class:`Codes`, and the encoder is the one that made the first of them.
    solver : {"joint", "ridge", "counts", "sgd"}, default="joint"
        How values are learned. ``joint`` solves the values of all heads together in closed form and is the most
        accurate. ``ridge`` is ``joint`` with ``objective="ridge"``. ``counts`` estimates how likely each class selects
        each key, as in naive Bayes, and is the smallest and fastest. ``sgd`` takes the paper's gradient steps.
    objective : {"auto", "ridge", "discriminant"}, default="auto"
        What ``joint`` solves: a regression on one-hot labels, or a linear discriminant of normal classes. ``"auto"``
        mixes both; leave-one-out scores of training rows choose the shares.
    alpha : float or "auto", default="auto"
        Penalty of ``joint``, in units of the summed squared lengths of the centred rows, > 0. ``"auto"`` mixes 1e-5,
        1e-4, 1e-3, 1e-2 and 1e-1 in the same way.
    curvature : float or "auto", default="auto"
        Spread of the curved part of the prior on values of ``joint``, relative to the part that is linear in a key's
        coordinates, ≥ 0. ``"auto"`` mixes 0 and 0.6 in the same way.
    remember : bool, default=True
        Whether ``joint`` keeps the codes of all samples, c · m bytes each (twice that with more than 256 keys). False
        keeps sums of fixed size instead, 32 · (c · d)² bytes for any number of samples. Sums merge and forget exactly,
        bit for bit, but samples can then be neither weighted nor left out to choose a mixture.
    smoothing : float, default=10.0
        Pseudo-count of each class in each head, > 0. ``counts`` distributes it over the keys according to a normal
        distribution around the class mean.
    solver_params : dict or None, default=None
        Settings of ``sgd``, with defaults ``learning_rate`` 0.3, ``batch_size`` 256, ``label_smoothing`` 0.1,
        ``clip_norm`` 1.0, ``max_iter`` 10 (epochs of :meth:`fit`) and ``partial_fit_epochs`` 1. One hit changes a value
        by at most learning_rate / (batch_size · c · m).
    class_weight : dict, "balanced" or None, default=None
        Weights of classes, applied when values are computed. With ``counts`` they change only the prior of a class.
    codes_dir : str or None, default=None
        Folder of an unnamed temporary file for the codes that ``joint`` remembers. None keeps them in memory.
    device : str, default="auto"
        A torch device for learning and predicting; ``"auto"`` is CUDA if available, else the CPU.
    random_state : int, RandomState or None, default=None
        Random state of the encoder if ``encoder`` is None; otherwise ignored.
    verbose : int, default=0
        Above 0, shows on stderr the progress of placing keys, encoding, learning and solving: a bar that disappears
        when the work is done, or one line per task if ``tqdm`` is not installed.

    Attributes
    ----------
    encoder_ : KeyEncoder
        The fitted encoder: projection, keys and their report.
    classes_ : ndarray of shape (k,)
        Labels seen or declared, sorted.
    values_ : ndarray of shape (c, j, k), float32
    mixture_ : list of dict
        The solutions that ``joint`` mixes: ``objective``, ``curvature``, ``penalty`` and ``share`` of each.
    key_counts_ : ndarray of shape (c, j)
        Weight of the learned samples that selected each key.
    class_counts_ : ndarray of shape (k,)
        Weight of the learned samples of each class.
    temperature_ : float
        Divisor of the logits before the softmax.
    state_bytes_ : int
        Size of the learned state in bytes, without projection and keys.
    forgetting_is_exact_ : bool
    n_features_in_, n_iter_ : int

    Notes
    -----
    On a CPU, the kernel and torch use ``torch.get_num_threads()`` threads; ``torch.set_num_threads(n)`` sets that
    number for the process. With scikit-learn's ``n_jobs``, set ``OMP_NUM_THREADS=1``. Codes and counts do not depend on
    the number of threads. A forked process computes on one thread.

    After the first samples are learned, ``solver``, ``remember`` and the encoder are fixed. ``alpha``, ``objective``,
    ``curvature``, ``smoothing``, ``class_weight`` and ``device`` may change at any time and take effect at the next
    call; ``solver_params``, and ``class_weight`` of ``sgd``, take effect at the next gradient steps. A call that fails
    changes nothing.

    See Also
    --------
    KeyEncoder : Places keys and maps embeddings to codes.

    References
    ----------
    Träuble, Goyal, Rahaman, Mozer, Kawaguchi, Bengio, Schölkopf, "Discrete Key-Value Bottleneck", ICML 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.frozen import FrozenEstimator
    >>> from dkvb_estimator import DKVBClassifier, KeyEncoder
    >>> X, y = load_digits(return_X_y=True)
    >>> encoder = KeyEncoder(n_heads=32, n_keys=64, key_dim=8, random_state=0).fit(X)
    >>> model = DKVBClassifier(FrozenEstimator(encoder))
    >>> for first in range(0, 10, 2):  # two new classes at a time
    ...     new = (y == first) | (y == first + 1)
    ...     model = model.partial_fit(X[new], y[new])
    >>> model.classes_.tolist(), bool(model.score(X, y) > 0.9)
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], True)
    """

    encoder_: KeyEncoder
    n_features_in_: int
    _learned: Learned
    _scratch: DeviceCache
    # The link behind the question mark in scikit-learn's HTML representation.
    _doc_link_module = "dkvb_estimator"
    _doc_link_template = "https://arxiv.org/abs/2207.11240"

    @refuse_renamed
    def __init__(
        self,
        encoder: Any = None,
        *,
        solver: str = "joint",
        objective: str = "auto",
        alpha: float | str = "auto",
        curvature: float | str = "auto",
        remember: bool = True,
        smoothing: float = 10.0,
        solver_params: Any = None,
        class_weight: Any = None,
        codes_dir: str | None = None,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.encoder = encoder
        self.solver = solver
        self.objective = objective
        self.alpha = alpha
        self.curvature = curvature
        self.remember = remember
        self.smoothing = smoothing
        self.solver_params = solver_params
        self.class_weight = class_weight
        self.codes_dir = codes_dir
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``encoder__NAME`` sets one of the encoder, even if ``encoder`` is None."""
        nested = {name: params.pop(name) for name in list(params) if name.startswith("encoder__")}
        super().set_params(**params)
        if nested and self.encoder is None:
            self.encoder = self._default_encoder()
        return super().set_params(**nested)

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Discard what was learned, and learn X and y.

        Parameters
        ----------
        X : array-like of shape (n, f)
            A dask array is learned block by block and never loaded as a whole. With ``counts`` and ``joint``, dask's
            workers learn the blocks, with the same result. With ``sgd`` or ``codes_dir``, this process learns them in
            order, as it does rows in a file (an HDF5 data set, a split of a cache).
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None

        Returns
        -------
        self
        """
        check_parameters(self.get_params(deep=False))
        for name in ("_learned", "encoder_"):
            self.__dict__.pop(name, None)
        self._start(X, y, sample_weight)
        return self._learn_rows(X, y, sample_weight, None, self._epochs("max_iter"))

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn more samples, which may have new labels.

        Parameters
        ----------
        X : array-like of shape (n, f)
            May be lazy, as in :meth:`fit`.
        y : array-like of shape (n,)
        classes : array-like, set, or another collection of labels, or None
            Labels that later calls will bring, if they are known; optional.
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
        classes = None if classes is None else as_classes(classes)
        if not hasattr(self, "encoder_"):
            self._start(X, y, sample_weight)
            self._warn_about_few_rows()
        return self._learn_rows(X, y, sample_weight, classes, self._epochs("partial_fit_epochs"))

    @by_blocks
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits (n, k), or with two classes their difference (n,).

        Logits are the pooled values of the nearest used keys.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    @by_blocks
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of :meth:`predict_proba` (n, k)."""
        return log_probabilities(self._logits(X), self.temperature_)

    @by_blocks
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class (n, k), columns in the order of ``classes_``.

        With ``sgd`` at the paper's learning rate, probabilities stay close to uniform; only their order is informative.
        """
        return np.exp(self.predict_log_proba(X))

    @by_blocks
    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample (n,)."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    @all_or_nothing
    def forget(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Remove one learned copy of each sample; the model is then as if it had never learned it.

        With ``counts`` and ``joint`` this is exact, unless the keys were placed from the same samples; see
        ``forgetting_is_exact_``. With ``sgd`` it is approximate: keys that these samples hit more often than all
        others together lose their values, and other traces remain.

        Parameters
        ----------
        X : array-like of shape (n, f)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None
            The weights with which the samples were learned.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a sample was never learned; the model is then unchanged.
        """
        check_is_fitted(self)
        rows, y, weights = self._check_learning(X, y, sample_weight)
        return self._forget(self._encode(rows), y, weights)

    @all_or_nothing
    def forget_classes(self, labels: Any) -> Self:
        """Remove all samples of some classes.

        Parameters
        ----------
        labels : array-like, set, or another collection of labels

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a label was never learned, or with ``solver="sgd"`` or ``remember=False``.
        """
        check_is_fitted(self)
        refuse_sgd(self.solver, "does not store individual samples, which forget_classes needs", "Use forget(X, y)")
        refuse_forgetful(self.solver, self.remember, "forget_classes")
        self._learned.forget_classes(as_classes(labels, "labels"))
        return self._after_change()

    @all_or_nothing
    def merge(self, other: DKVBClassifier) -> Self:
        """Add what another model with the same keys has learned, as if this model had learned it.

        Warns
        -----
        UserWarning
            If both models have learned some samples (equal codes, labels and weights): these count twice.

        Raises
        ------
        TypeError
            If the other model is not a classifier of this kind.
        ValueError
            If the models differ in solver, keys, projection or ``n_selected``, or use ``sgd``.
        """
        check_is_fitted(self)
        if not isinstance(other, DKVBClassifier):
            raise TypeError(f"other is a {type(other).__name__}; expected a DKVBClassifier. Pass a fitted one.")
        check_is_fitted(other)
        refuse_sgd(self.solver, "learns in sequential steps, which merge cannot add", "Call partial_fit")
        check_mergeable(
            *(
                vars(each._layout()) | each._learned_with | {"fingerprint_": each.encoder_.fingerprint_[:12]}
                for each in (self, other)
            )
        )
        if n_shared := self._learned.n_shared(other._learned):
            warnings.warn(
                f"other shares {n_shared} of its {other._learned.n_samples} samples with this model (equal codes, "
                "label and weight), and these count twice; expected models that learned different samples. Call "
                "forget(X, y) with the shared samples on one of the models before merging.",
                UserWarning,
                stacklevel=3,
            )
        self._learned = self._learned.merge(other._learned)
        return self._after_change()

    @all_or_nothing
    def prune(self) -> Self:
        """Remove the keys that no learned sample selects; the model becomes smaller and faster.

        Predictions stay the same. :meth:`score_samples` of ``joint`` and ``ridge`` changes, because it uses the nearest
        of all keys. Later samples select among the remaining keys. A pruned model merges only with models that have the
        same keys.
        """
        check_is_fitted(self)
        self._layout()
        self.encoder_, order = self.encoder_._pruned(self._learned.counts.used())
        self._learned.prune(order, self.encoder_._codebook.origin)
        self._scratch = DeviceCache()
        return self

    @all_or_nothing
    def calibrate(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the temperature that makes the labels of held-out samples most likely.

        Any later change of the values resets the temperature to 1.

        Parameters
        ----------
        X : array-like of shape (n, f)
            Samples that were not learned.
        y : array-like of shape (n,)
            Labels among ``classes_``.
        sample_weight : array-like of shape (n,) or None

        Returns
        -------
        self

        References
        ----------
        Guo et al. (2017), "On calibration of modern neural networks", section 4.2.
        """
        check_is_fitted(self)
        rows, y, weights = self._check_learning(X, y, sample_weight, learned=False)
        check_known_labels(y, self.classes_)
        labels, logits = positions_of(y, self.classes_), self._read(rows)
        self._temperature_with = self._value_settings()
        self._temperature = fit_temperature(logits, labels, np.ones(len(y)) if weights is None else weights)
        return self

    @by_blocks
    def score_samples(self, X: Any) -> np.ndarray:
        """Return how typical each sample is of the learned classes (n,); larger is more typical.

        With ``joint`` and ``ridge``, the score is minus the squared Mahalanobis distance to the nearest class mean, in
        the coordinates of the selected keys and with one covariance within classes. With ``counts`` and ``sgd``, it is
        the largest logit.

        Parameters
        ----------
        X : array-like of shape (n, f)

        References
        ----------
        Mueller and Hein (2025), "Mahalanobis++: improving OOD detection via feature normalization", ICML.
        """
        check_is_fitted(self)
        rows = self._check_X(X)
        if self.solver not in JOINT:
            return self._read(rows).max(axis=1)
        params, device = self.get_params(deep=False), resolve_device(self.device)
        distances = self._scratch.get(
            "distances",
            lambda: distances_to_classes(self._learned, params, self._prior(), device, Progress.of(self)),
            self._value_settings(),
        )
        return -distances(self._encode(rows))

    def key_usage(self) -> KeyUsage:
        """Report which classes use which keys.

        Returns
        -------
        KeyUsage
            The usage at the time of the call. If samples are remembered, it also finds those that selected a key.
        """
        check_is_fitted(self)
        self._layout()
        learned = self._learned
        codes = learned.codes.detached() if learned.keeps_rows else None
        return count_key_usage(learned.counts.table(), learned.classes, self.encoder_.key_mask_, codes)

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
        solve = functools.partial(solve_values, self._learned, params, self._book())
        return self._scratch.get("values", solve, self._value_settings())

    @property
    def mixture_(self) -> list[dict[str, float | str]]:
        """The solutions that ``joint`` mixes: ``objective``, ``curvature``, ``penalty`` and ``share`` of each."""
        check_is_fitted(self)
        return [part._asdict() for part in self._solution().parts] if self.solver in JOINT else []

    @property
    def key_counts_(self) -> np.ndarray:
        """Weight of the learned samples that selected each key (c, j)."""
        check_is_fitted(self)
        return self._learned.counts.key_counts()

    @property
    def class_counts_(self) -> np.ndarray:
        """Weight of the learned samples of each class (k,)."""
        check_is_fitted(self)
        return self._learned.class_counts

    @property
    def temperature_(self) -> float:
        """Divisor of the logits: chosen by :meth:`calibrate`, else 1. Values of ``joint`` are calibrated already."""
        check_is_fitted(self)
        settings = self._value_settings()
        if hasattr(self, "_temperature") and getattr(self, "_temperature_with", settings) == settings:
            return self._temperature
        return 1.0

    @property
    def state_bytes_(self) -> int:
        """Size of the learned state in bytes, without projection and keys."""
        check_is_fitted(self)
        return self._learned.nbytes

    @property
    def forgetting_is_exact_(self) -> bool:
        """Whether :meth:`forget` leaves no trace: the solver is additive, and the keys were frozen beforehand.

        Keys reflect the rows that they were placed from; the caller ensures that these are other rows.
        """
        check_is_fitted(self)
        return self.solver != "sgd" and self._keys_were_frozen

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_learned")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_scratch", None)
        if "_learned" in state:  # plain arrays, so that skops has to trust only the two estimators
            state["_learned"] = self._learned.state()
        return state | {"_schema_version": SCHEMA_VERSION}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        check_schema(state.pop("_schema_version", 0))
        encoder = state.get("encoder_")
        check_classifier_state(state, encoder._codebook if isinstance(encoder, KeyEncoder) else None)
        if "_learned" in state:
            state["_learned"] = Learned.from_state(state["_learned"])
        if encoder is not None:
            state["_scratch"] = DeviceCache()
        super().__setstate__(state)

    def _epochs(self, name: str) -> int:
        return gradient_settings(self.solver_params)[name] if self.solver == "sgd" else 1

    def _learn_rows(self, X: Any, y: Any, weights: Any, classes: Any, epochs: int) -> Self:
        """Check, encode and learn rows; lazy ones block by block."""
        if not is_lazy(X):
            rows, y, weights = self._check_learning(X, y, weights)
            return self._learn(self._encode(rows), y, weights, classes, epochs)
        on_workers = is_dask(X) and (self.solver == "counts" or (self.solver in JOINT and self.codes_dir is None))
        learn = self._learn_on_workers if on_workers else self._learn_in_order
        return learn(X, y, weights, classes, epochs)

    def _learn_in_order(self, X: Any, y: Any, weights: Any, classes: Any, epochs: int) -> Self:
        """Learn one block after another."""
        n_learned = 0
        with Progress.of(self).bar("learning", X.shape[0], "rows") as advance:
            for block in stream_blocks(X, y, weights):
                rows, labels, some = self._check_learning(*block)
                self._learn(self._encode(rows), labels, some, classes, epochs)
                n_learned += len(rows)
                advance(len(rows))
        _refuse_nothing(n_learned)
        return self

    def _learn_on_workers(self, X: Any, y: Any, weights: Any, classes: Any, epochs: int) -> Self:
        """Let workers count their blocks, and fetch the sums; codes stay with the workers."""
        layout = self._layout()
        parts = map_blocks(self._light("learn"), DKVBClassifier._learn_block, X, y, weights, extra=(classes,))
        row_bytes = layout.n_heads * layout.n_selected * np.dtype(code_dtype(layout.n_keys)).itemsize
        whole = merge_learned(parts, row_bytes if self._nothing_learned(None).keeps_rows else 0)
        _refuse_nothing(whole.n_samples)
        known: Learned | None = getattr(self, "_learned", None)
        self._learned = whole if known is None else known.merge(whole)
        return self._after_learning(0 if known is None else known.nbytes, epochs)

    def _learn_block(self, X: np.ndarray, y: Any, weights: Any, classes: Any) -> Learned:
        """Return what a worker learns of its block."""
        learned, (rows, labels, some) = self._nothing_learned(None), weighty(X, y, weights)
        if len(rows):
            rows, labels, some = self._check_learning(rows, labels, some)
        codes = self._encode(rows.astype(np.float32, copy=False))
        self._count(learned, codes, learned.learn(codes, np.asarray(labels), some, classes), 1)
        return learned

    def _check_learning(
        self, X: Any, y: Any, sample_weight: Any, *, learned: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return valid rows or codes, labels and weights, without samples of weight zero.

        If the model keeps sums, the weights of samples to be ``learned`` must be one; those of other samples need not.
        """
        self._layout()
        rows, y, weights = drop_weightless(*self._check_rows(X, y), sample_weight)
        if not (learned and keeps_sums(self.solver, self.remember)):
            return rows, y, weights
        refuse_weights(weights)
        return rows, y, None

    def _check_rows(self, X: Any, y: Any, *, reset: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return valid rows (n, f), float32, or codes (n, c, m), and labels (n,)."""
        refuse_blocks(X)
        if self._is_encoded(X):
            rows, y = self._check_X(X), column_or_1d(as_labels(y), warn=True)
            if len(rows) != len(y):
                raise ValueError(
                    f"y has {len(y)} labels for {len(rows)} rows of codes; expected one label per row. Pass the labels "
                    "of X."
                )
        else:
            rows, y = validate_data(self, as_array(X), as_labels(y), dtype=FLOATS, reset=reset)
            rows = as_float32(rows)
        y = check_labels(y)
        check_classification_targets(y)
        return rows, y

    def _check_X(self, X: Any) -> np.ndarray:
        """Return valid rows (n, f), float32; of codes, (n, c, m), unsigned."""
        refuse_blocks(X)
        layout = self._layout()
        if not self._is_encoded(X):
            return as_float32(validate_data(self, as_array(X), dtype=FLOATS, reset=False))
        encoder = getattr(X, "encoder", None)
        if encoder is not None and encoder.fingerprint_ != self.encoder_.fingerprint_:
            raise ValueError(
                f"X holds codes of an encoder with fingerprint_ {encoder.fingerprint_[:12]}; expected "
                f"{self.encoder_.fingerprint_[:12]}, the fingerprint_ of encoder_. Encode the rows again with "
                "encoder_.transform."
            )
        return check_codes(X, layout, self.encoder_._codebook.mask)

    def _encode(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes (n, c, m) of valid rows or codes."""
        if rows.ndim == 3:
            return rows
        return self.encoder_._encode_cached(rows, self.device, self._progress(self.encoder_))

    def _learn(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None, classes: Any, epochs: int) -> Self:
        """Count samples, and take gradient steps with ``sgd``."""
        learned: Learned | None = getattr(self, "_learned", None)
        before = 0 if learned is None else learned.nbytes
        if learned is None:
            learned = self._nothing_learned(self.codes_dir)
        self._learned = learned
        labels = learned.learn(codes, y, weights, classes)
        self._count(learned, codes, labels, 1)
        if self.solver == "sgd":
            step_table(
                learned,
                (codes, labels, weights),
                self.get_params(deep=False),
                epochs=epochs,
                seed=self.encoder_._codebook.seed,
                device=resolve_device(self.device),
                progress=Progress.of(self),
            )
        return self._after_learning(before, epochs)

    def _count(self, learned: Learned, codes: np.ndarray, positions: np.ndarray, sign: int) -> None:
        """Add samples of classes at ``positions`` (n,) to the sums, if sums are kept instead of codes."""
        if learned.sums is not None:
            options = self._prior(), len(learned.classes), resolve_device(self.device), Progress.of(self)
            learned.add_sums(sum_codes(codes.__getitem__, positions, np.ones(len(codes)), *options), sign)

    def _nothing_learned(self, folder: str | None) -> Learned:
        book = self.encoder_._codebook
        n_heads, n_keys = book.keys.shape[:2]
        width = 2 * n_heads * book.keys.shape[2] if keeps_sums(self.solver, self.remember) else None
        return Learned(self.solver, n_heads, n_keys, book.layout.n_selected, folder, book.origin, width)

    def _after_learning(self, before: int, epochs: int) -> Self:
        self._warn_about_size(before)
        self.n_iter_ = epochs
        self._after_change()
        if not self._learned.codes.are_here:
            self._solution()  # while the workers are alive
        return self

    def _after_change(self) -> Self:
        """Drop everything derived from what was learned; without samples, the model is not fitted."""
        self._scratch.drop("values", "reader", "search", "solution", "distances", "used")
        for name in ("_temperature", "_temperature_with"):
            self.__dict__.pop(name, None)
        if self._learned.n_samples == 0:
            del self._learned
        return self

    def _forget(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Self:
        if self.solver == "sgd" or self._learned.sums is not None:
            self._learned.take_back(codes, y, weights)
            self._count(self._learned, codes, positions_of(y, self._learned.classes), -1)
        else:
            self._learned.forget(codes, y, weights)
        return self._after_change()

    def _start(self, X: Any, y: Any, sample_weight: Any) -> None:
        """Set the encoder: fitted on the first rows, frozen beforehand, or the one that made the first codes."""
        if self._is_encoded(X):
            self.encoder_ = self._encoder_of(X)
            self.n_features_in_ = self.encoder_._n_features_out if self._precomputed else self.encoder_.n_features_in_
        else:
            given = X
            if is_lazy(X):
                check_features(self, X, reset=True)
            else:
                X, y = self._check_rows(X, y, reset=True)
            self.encoder_ = self._make_encoder(X, y, sample_weight)
            if self.n_features_in_ != self.encoder_.n_features_in_:
                raise ValueError(
                    f"X has {self.n_features_in_} features, but {type(self).__name__} is expecting "
                    f"{self.encoder_.n_features_in_} features as input; expected those of its encoder. "
                    "Pass embeddings of the same network."
                )
            if isinstance(self.encoder, FrozenEstimator) and not is_lazy(given):
                validate_data(self.encoder_, given, skip_check_array=True, reset=False)  # names of features
        self._keys_were_frozen = self._precomputed or isinstance(self.encoder, FrozenEstimator)
        self._learned_with = {"solver": self.solver, "remember": self.remember}
        self._scratch = DeviceCache()

    def _make_encoder(self, rows: Any, labels: Any, sample_weight: Any) -> KeyEncoder:
        if isinstance(self.encoder, FrozenEstimator):
            return self._frozen_encoder()
        encoder = clone(cast("KeyEncoder", self._given_encoder()))
        return encoder._fit(rows, labels, sample_weight, self._progress(encoder))

    def _encoder_of(self, codes: Any) -> KeyEncoder:
        """Return the encoder of the first codes."""
        if isinstance(self.encoder, FrozenEstimator):
            return self._frozen_encoder()
        encoder = getattr(codes, "encoder", None)
        if not self._precomputed:
            raise ValueError(
                f"X holds codes, but encoder={short(self.encoder)} learns from embeddings; expected 'precomputed' or a "
                "frozen encoder. Set encoder='precomputed' or encoder=FrozenEstimator(X.encoder)."
            )
        if not isinstance(encoder, KeyEncoder):
            raise ValueError(
                f"X is a {type(codes).__name__} without an encoder, which encoder='precomputed' needs; expected Codes, "
                "as KeyEncoder.transform returns. Pass Codes.of(codes, encoder)."
            )
        return copy.copy(encoder)

    def _frozen_encoder(self) -> KeyEncoder:
        encoder = cast("KeyEncoder", self._given_encoder())
        encoder._check_fitted("FrozenEstimator")
        return copy.copy(encoder)  # fitting the original again does not change these keys

    def _given_encoder(self) -> KeyEncoder | None:
        """Return the encoder in the parameter, frozen or not; None for ``"precomputed"``."""
        if self._precomputed:
            return None
        given = self._default_encoder() if self.encoder is None else self.encoder
        frozen = isinstance(given, FrozenEstimator)
        encoder = given.estimator if frozen else given
        if isinstance(encoder, KeyEncoder):
            return encoder
        if frozen:
            raise TypeError(
                f"encoder is a FrozenEstimator of a {type(encoder).__name__}; expected a FrozenEstimator of a "
                "KeyEncoder. Pass FrozenEstimator(KeyEncoder(...).fit(X))."
            )
        raise TypeError(
            f"encoder={short(given)} is a {type(given).__name__}; expected a KeyEncoder, FrozenEstimator(encoder), "
            "'precomputed' or None. Set it with set_params(encoder=...)."
        )

    def _default_encoder(self) -> KeyEncoder:
        return KeyEncoder(device=self.device, random_state=self.random_state, verbose=self.verbose)

    @property
    def _precomputed(self) -> bool:
        return isinstance(self.encoder, str) and self.encoder == PRECOMPUTED

    def _is_encoded(self, X: Any) -> bool:
        return self._precomputed or isinstance(X, Codes)

    def _layout(self) -> Layout:
        """Return the codebook's shape; refuse settings that changed although they must not."""
        params = self.get_params(deep=False)
        check_parameters(params | {"codes_dir": None})  # the folder has to exist only when it is written to
        check_unchanged(self._learned_with, params)
        given = self._given_encoder()
        if given is not None and isinstance(self.encoder, FrozenEstimator):
            self._check_frozen(given)
        elif given is not None:
            check_unchanged(self.encoder_._codebook.settings, given.get_params(deep=False), "encoder__")
        return self.encoder_._layout()

    def _check_frozen(self, encoder: KeyEncoder) -> None:
        """Refuse a frozen encoder whose keys are neither those of this model nor those before it was pruned."""
        mine, given = self.encoder_, encoder.fingerprint_
        if given == mine.fingerprint_:
            return
        if not self._scratch.get("pruned", lambda: mine._codebook.is_part_of(encoder._codebook), given):
            raise ValueError(
                f"encoder has fingerprint_ {given[:12]}, but this model was fitted with {mine.fingerprint_[:12]}; "
                "expected the same keys. Set it back, or fit clone(model)."
            )

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._read(self._check_X(X))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Return the logits (n, k) of valid rows or codes."""
        device, params = resolve_device(self.device), self.get_params(deep=False)
        read = self._scratch.get(
            "reader",
            lambda: make_reader(self._learned, params, device, lambda: self.values_, self._book()),
            (value_settings(params), device),
        )
        parts = np.array_split(rows, range(PREDICT_ROWS, len(rows), PREDICT_ROWS))
        return torch.cat([read(self._nearest_used(part, device)) for part in parts]).cpu().numpy()

    def _nearest_used(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return the nearest used keys (n, c, m), int64, of rows, or of the keys that codes name."""
        encoder = self.encoder_._on(self.device)
        if rows.ndim == 2:
            return encoder.nearest(rows, self._search(encoder))
        used = self._scratch.get("used", lambda: encoder.nearest_to_keys(self._search(encoder)), encoder)
        heads = np.arange(rows.shape[1])[None, :, None]
        return torch.from_numpy(used[heads, rows]).to(device)

    def _search(self, encoder: Any) -> KeySearch:
        """Return the search among used keys; learning that uses no other keys keeps it, with its grid or boxes."""

        def search() -> KeySearch:
            used = self._learned.counts.used()
            return self._scratch.get("search of keys", lambda: encoder.search(used), (encoder, used.tobytes()))

        return self._scratch.get("search", search, encoder)

    def _value_settings(self) -> dict[str, Any]:
        self._layout()
        return value_settings(self.get_params(deep=False))

    def _prior(self) -> Prior:
        """Return the functions of keys in which values are linear."""
        book = self.encoder_._codebook
        prior: Prior = self._scratch.get("prior", lambda: Prior.of_keys(book.keys, book.centres, book.reaches), book)
        return prior

    def _book(self) -> Book:
        def sharing() -> Any:
            encoder, used = self.encoder_._on(self.device), self._learned.counts.used()
            found = self._scratch.renew("sharing", lambda before: encoder.sharing(used, before), encoder)
            if not found.is_kept:
                self._scratch.drop("sharing")
            return found.table()

        return Book(self._prior, sharing, self._solution)

    def _solution(self) -> Solution:
        """Return the solution for all values, computed once."""
        return self._learned.solution or self._scratch.get("solution", self._solve_jointly, self._value_settings())

    def _solve_jointly(self) -> Solution:
        params, device = self.get_params(deep=False), resolve_device(self.device)
        return solve_jointly(self._learned, params, self._prior(), device, Progress.of(self))

    def _light(self, method: str) -> Self:
        """Return a copy for workers, which holds only what ``method`` needs."""
        light = type(self)(**self.get_params(deep=False) | {"verbose": 0})  # workers have no terminal
        for name in ("n_features_in_", "encoder_", "_learned_with", "_keys_were_frozen"):
            setattr(light, name, getattr(self, name))
        light.encoder_ = self.encoder_._light(method)
        light._scratch = DeviceCache()
        if method == "score_samples" and self.solver in JOINT:
            light._learned = copy.copy(self._learned)  # its rows are needed to compute distances
            light._learned.codes = self._learned.codes.here().detached()
        elif method != "learn":
            light._learned = self._learned.to_predict(self._solution() if self.solver in JOINT else None)
            if "proba" in method:
                light._temperature = self.temperature_
        return light

    def _progress(self, encoder: KeyEncoder) -> Progress:
        """Return the progress of this estimator, or of its encoder if only that is verbose."""
        return Progress.of(self if self.verbose else encoder)

    def _warn_about_few_rows(self) -> None:
        rows, keys = int(self.encoder_.key_report_["n_rows"]), self.encoder_._codebook.layout.n_keys
        if not self._keys_were_frozen and rows < keys:
            warnings.warn(
                f"X has {rows} distinct rows for {keys} keys per head, and keys do not move after fitting; expected at "
                "least as many rows as keys. Fit a KeyEncoder on more (unlabelled) embeddings, and pass "
                "FrozenEstimator(encoder).",
                UserWarning,
                stacklevel=4,
            )

    def _warn_about_size(self, before: int) -> None:
        """Warn once if codes take much memory that a file could hold."""
        size = self._learned.nbytes
        if self.solver in JOINT and self.codes_dir is None and before <= MUCH_STATE_BYTES < size:
            warnings.warn(
                f"solver={self.solver!r} holds {size / 2**30:.1f} GiB in memory for {self._learned.n_samples:,} "
                f"samples; expected at most {MUCH_STATE_BYTES / 2**30:.0f} GiB. Pass codes_dir=... to keep codes in a "
                "file, remember=False to keep sums instead, or an encoder with fewer n_heads.",
                UserWarning,
                stacklevel=5,
            )

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        """Show stored attributes in notebooks; scikit-learn would read all of them, and so solve the values."""
        return show_stored(self, SHOWN, doc_link)


def _refuse_nothing(n_learned: int) -> None:
    if not n_learned:
        raise ValueError(
            "X has no row with a positive weight; expected at least one. Pass rows with positive weights, or with "
            "sample_weight=None."
        )
