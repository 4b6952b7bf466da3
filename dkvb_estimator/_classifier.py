"""The estimator: scikit-learn's contract around the rooms, nothing else."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from ._atomic import all_or_nothing
from ._blocks import WorkerCodes, by_blocks, is_lazy
from ._device import resolve_device
from ._encoding import Encoder, KeySearch
from ._labels import as_classes, check_known_labels, positions_of
from ._solved import SolvedHalf
from ._validation import JOINT, check_integer, check_mergeable, check_parameters, refuse_forgetful, refuse_sgd
from ._values import Learned, fit_temperature, log_probabilities, make_reader, n_epochs, step_table, value_settings
from .inspection import Audit, make_audit

PREDICT_ROWS = 2048


class DKVBClassifier(ClassifierMixin, SolvedHalf):
    """Learn classes one after another on frozen features, with a Discrete Key-Value Bottleneck.

    An embedding is projected into many small heads; each head snaps to its nearest key, and only the *value* of that
    key learns. Projection and keys never move, so what was learned about other keys stays. New labels may appear in
    any call of :meth:`partial_fit`.

    Parameters
    ----------
    n_heads : int, default=1024
        Heads, c.
    n_keys : int, default=256
        Keys of each head, j; at most 65,536.
    key_dim : int, default=2
        Coordinates of a head, d.
    n_selected : int or "auto", default="auto"
        Nearest keys read in each head, m, 1…16. ``"auto"``: 1.
    normalize : bool, default=True
        Divide each embedding by its Euclidean length first.
    projection : {"orthogonal", "gaussian", "sparse", "chunk", "identity", "learned"}, default="orthogonal"
        How heads read features. ``orthogonal``: random rotations; ``gaussian``: the paper's; ``chunk`` needs
        n_heads · key_dim = f; ``identity`` needs one head; ``learned`` reads labels of the rows that keys are placed
        from: see ``docs/experiments/projections.md``.
    density : float in (0, 1] or "auto", default="auto"
        Share of entries of a ``sparse`` projection that are not zero; ``"auto"``: 1 / sqrt(f).
    key_init : {"kmeans", "ema", "ema-faithful", "sample", "gaussian", "uniform"}, default="kmeans"
        How keys are placed. ``ema-faithful`` is the paper's rule, ``ema`` the same, mended.
    key_data : array-like of shape (n, f) or None, default=None
        Unlabelled embeddings to place keys from, or an iterable of blocks of them; None: the first rows learned.
    solver : {"joint", "ridge", "counts", "sgd"}, default="joint"
        How values learn. ``joint``: values of all heads together, in closed form; the most accurate. ``ridge``: the
        same with ``objective="ridge"``. ``counts``: how likely each class selects each key, as in naive Bayes; the
        smallest and quickest. ``sgd``: the paper's gradient steps.
    objective : {"auto", "ridge", "discriminant"}, default="auto"
        What ``joint`` solves: a regression of one-hot labels, or normal classes of one covariance. ``"auto"``: the
        mixture of both that held-out rows choose.
    alpha : float or "auto", default="auto"
        Penalty of ``joint``, in units of the summed squared lengths of the centred rows, > 0. ``"auto"``: the mixture
        of 1e-5, 1e-4, 1e-3, 1e-2 and 1e-1 that held-out rows choose.
    curvature : float or "auto", default="auto"
        Spread of the curved part of the prior on values of ``joint``, relative to the part that is linear in a key's
        coordinates, ≥ 0. ``"auto"``: the mixture of 0 and 0.6 that held-out rows choose.
    remember : bool, default=True
        Whether ``joint`` keeps the codes of every sample, c · m bytes each (twice that with more than 256 keys).
        False keeps sums of one size, 32 · (c · d)² bytes, however many samples come: they merge and forget to the bit,
        but samples cannot be told apart, weighted or held out.
    smoothing : float, default=1.0
        Pseudo-hits by which ``counts`` pulls each class towards how often all classes select a key.
    learning_rate, batch_size, label_smoothing, clip_norm : default=0.3, 256, 0.1, 1.0
        Settings of ``sgd``. A hit moves a value by at most learning_rate / (batch_size · c · m).
    max_iter : int or None, default=None
        Epochs of ``sgd`` in :meth:`fit`; None: 10.
    class_weight : dict, "balanced" or None, default=None
        Weights of classes, applied when values are read, solved or stepped.
    codes_dir : str or None, default=None
        Folder for an unnamed file that holds the codes that ``joint`` remembers; None keeps them in memory.
    device : str, default="auto"
        A torch device; ``"auto"`` is CUDA where there is one.
    random_state : int, RandomState or None, default=None
        Decides projection, keys and the shuffling of ``sgd``.
    verbose : int, default=0
        Above 0, prints progress on stderr: keys placed, rows encoded and how long the rest takes, samples learned and
        what they occupy, values solved.

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
    key_mask_ : ndarray of shape (c, j), bool
        Keys that are there: all, until :meth:`prune` leaves heads of different lengths, padded to the longest.
    key_report_ : dict
        ``unused_share``, ``quantisation_error``, ``n_rows`` and ``novelty_unit`` of the key initialisation.
    fingerprint_ : str
        sha256 of projection and keys.
    temperature_ : float
        What logits are divided by before the softmax.
    state_bytes_ : int
        What was learned, beside projection and keys.
    n_features_in_, n_iter_ : int

    Notes
    -----
    Threads on a CPU: the kernel and torch use ``torch.get_num_threads()``. ``torch.set_num_threads(n)`` sets it for the
    process; scikit-learn's ``n_jobs`` around it starts processes, for which ``OMP_NUM_THREADS=1`` is the wise setting.
    Codes and counts do not depend on it. A forked process computes on one thread.

    Once keys are placed, the settings that they and the codes rest on are fixed. ``alpha``, ``smoothing``,
    ``class_weight``, ``max_iter`` and ``device`` may be set at any time and hold from the next call on, the settings of
    ``sgd`` from its next steps on. A call that fails changes nothing.

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
        n_heads: int = 1024,
        n_keys: int = 256,
        key_dim: int = 2,
        *,
        n_selected: int | str = "auto",
        normalize: bool = True,
        projection: str = "orthogonal",
        density: float | str = "auto",
        key_init: str = "kmeans",
        key_data: Any = None,
        solver: str = "joint",
        objective: str = "auto",
        alpha: float | str = "auto",
        curvature: float | str = "auto",
        remember: bool = True,
        smoothing: float = 1.0,
        learning_rate: float = 0.3,
        batch_size: int = 256,
        label_smoothing: float = 0.1,
        clip_norm: float = 1.0,
        max_iter: int | None = None,
        class_weight: Any = None,
        codes_dir: str | None = None,
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
        self.key_data = key_data
        self.solver = solver
        self.objective = objective
        self.alpha = alpha
        self.curvature = curvature
        self.remember = remember
        self.smoothing = smoothing
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.codes_dir = codes_dir
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Forget what was learned, and learn X and y.

        Keys come from :meth:`init_keys` if it was called on this object, else ``key_data``, else X.

        Parameters
        ----------
        X : array-like of shape (n, f)
            A dask array is learned block by block, and never in memory as a whole: with ``counts`` and ``joint`` by
            its workers, to the same result; with ``sgd``, or with ``codes_dir``, in the order of its blocks. So are
            rows in a file (an HDF5 data set, a split of a cache).
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None

        Returns
        -------
        self
        """
        check_parameters(self.get_params(deep=False))
        given = hasattr(self, "_codebook") and self._codebook.source == "init_keys"
        X, y, weights = self._check_rows(X, y, sample_weight, reset=not given)
        self.__dict__.pop("_learned", None)
        if not given:
            self._start_codebook(X, y, weights, checked=not is_lazy(X))
        return self._learn_rows(X, y, weights, None, n_epochs(self.get_params(deep=False)))

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn more samples; labels never seen before are welcome.

        Parameters
        ----------
        X : array-like of shape (n, f)
            Lazily too, as in :meth:`fit`.
        y : array-like of shape (n,)
        classes : array-like, set, or another collection of labels, or None
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
        first, classes = not hasattr(self, "_codebook"), None if classes is None else as_classes(classes)
        X, y, weights = self._check_rows(X, y, sample_weight, reset=first)
        if first:
            self._start_codebook(X, y, weights, checked=not is_lazy(X))
            self._warn_about_few_rows()
        return self._learn_rows(X, y, weights, classes, 1)

    @all_or_nothing
    def fit_codes(self, codes: Any, y: Any, sample_weight: Any = None) -> Self:
        """Do what :meth:`fit` does, from codes that :meth:`encode` made with the keys of this object."""
        self._check_has_keys("fit_codes")
        check_parameters(self.get_params(deep=False))
        codes, y, weights = self._check_codes(codes, y, sample_weight)
        self.__dict__.pop("_learned", None)
        return self._learn(codes, y, weights, None, n_epochs(self.get_params(deep=False)))

    @all_or_nothing
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
        return self._learn(codes, y, weights, None if classes is None else as_classes(classes), epochs)

    @by_blocks
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the pooled values of the nearest used keys: (n, k), or with two classes their difference (n,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    @by_blocks
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of :meth:`predict_proba` (n, k)."""
        return log_probabilities(self._logits(X), self.temperature_)

    @by_blocks
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class (n, k), columns in the order of ``classes_``.

        With ``sgd`` at the paper's learning rate they are close to uniform; their order is what it learns.
        """
        return np.exp(self.predict_log_proba(X))

    @by_blocks
    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample (n,)."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    @all_or_nothing
    def forget(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Take away one learned copy of each sample: afterwards the model is as if it had never seen them.

        With ``counts`` and ``joint`` that is exact, as far as keys do not stem from the same samples; see
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

    @all_or_nothing
    def forget_codes(self, codes: Any, y: Any, sample_weight: Any = None) -> Self:
        """Do what :meth:`forget` does, from codes that :meth:`encode` made."""
        check_is_fitted(self)
        return self._forget(*self._check_codes(codes, y, sample_weight))

    @all_or_nothing
    def forget_classes(self, labels: Any) -> Self:
        """Take away all samples of some classes (an array-like of labels); not with ``sgd`` or ``remember=False``."""
        check_is_fitted(self)
        refuse_sgd(self.solver, "forget_classes", "which keeps no samples apart. Use forget(X, y) or mask_keys(X)")
        refuse_forgetful(self.solver, self.remember, "forget_classes")
        self._learned.forget_classes(as_classes(labels, "labels"))
        return self._after_change()

    @all_or_nothing
    def mask_keys(self, X: Any, n_masked: int | None = None) -> Self:
        """Set values of keys that some samples select to zero: the unlearning that ``sgd`` allows, and a weak one.

        Keys are shared: other samples lose too, and those of a class leave traces in keys not masked. ``counts`` and
        ``joint`` forget exactly; use :meth:`forget` there.

        Parameters
        ----------
        X : array-like of shape (n, f)
            Embeddings to be forgotten, or others like them.
        n_masked : int or None
            Mask so many of the keys, those selected most often ("by activations"); None: all that any of the samples
            selects ("by examples").

        Returns
        -------
        self

        References
        ----------
        Shah et al. (2023), "Unlearning via sparse representations", arXiv 2311.15268, algorithms 1 and 2.
        """
        check_is_fitted(self)
        if self.solver != "sgd":
            raise ValueError(
                f"mask_keys was called with solver={self.solver!r}, whose values are computed anew from what was "
                "learned; expected 'sgd'. Use forget(X, y), which is exact."
            )
        if n_masked is not None:
            check_integer("n_masked", n_masked)
        self._learned.mask_most_selected(self._encoder().encode(self._check_X(X)), n_masked)
        return self._after_change()

    @all_or_nothing
    def merge(self, other: DKVBClassifier) -> Self:
        """Add what another model with the same keys has learned: as if this one had learned both.

        Warns
        -----
        UserWarning
            With the number of samples that both have learned, by their codes, labels and weights: they count twice.

        Raises
        ------
        ValueError
            If the models differ in solver, keys, projection or ``n_selected``, if one is pruned, or they use ``sgd``.
        """
        check_is_fitted(self)
        check_is_fitted(other)
        refuse_sgd(self.solver, "merge", "whose steps depend on each other. Learn in sequence with partial_fit")
        check_mergeable(
            *((model.solver, bool(model.remember), model._layout(), model.fingerprint_) for model in (self, other))
        )
        if n_shared := self._learned.n_shared(other._learned):
            warnings.warn(
                f"{n_shared} of the {other._learned.n_samples} samples of the other model have the codes, label and "
                "weight of samples learned here, and count twice in the merged model; expected models of different "
                "samples. Call forget(X, y) with the shared samples on one of the models before merging.",
                UserWarning,
                stacklevel=3,
            )
        self._learned = self._learned.merge(other._learned)
        return self._after_change()

    @all_or_nothing
    def prune(self) -> Self:
        """Remove the keys that no learned sample selects, for good: smaller and faster, the same predictions.

        Later samples select among the keys that are left. A pruned model merges with none that has other keys.
        """
        check_is_fitted(self)
        self._layout()
        self._codebook, order = self._codebook.pruned(self._learned.counts.used())
        self._learned.prune(order, self._codebook.origin)
        self._scratch.drop("values", "reader", "search", "solution", "distances")
        return self

    @all_or_nothing
    def calibrate(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the temperature by which probabilities of held-out samples are most likely.

        It belongs to the values it was chosen with: whatever changes them drops it.

        Parameters
        ----------
        X : array-like of shape (n, f)
            Not among the learned.
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
        X, y, weights = self._check_learning(X, y, sample_weight, reset=False, learned=False)
        check_known_labels(y, self.classes_)
        labels, logits = positions_of(y, self.classes_), self._logits(X)
        self._temperature_with = self._value_settings()
        self._temperature = fit_temperature(logits, labels, np.ones(len(y)) if weights is None else weights)
        return self

    @by_blocks
    def novelty(self, X: Any, *, relative: bool = False) -> np.ndarray:
        """Return how strange each sample is (n,), larger is stranger.

        The mean over heads of the squared distance to the nearest used key, in units of its mean over the rows that
        keys were placed from; where each of those rows is a key, in units of the keys' variance.

        Parameters
        ----------
        X : array-like of shape (n, f)
        relative : bool, default=False
            Take off the distance to the nearest of all keys, used or not. What is left is due to what was learned
            alone, and tells classes to come from learned ones far better where keys cover both; samples far from every
            key no longer stand out, and after :meth:`prune` nothing is left.
        """
        check_is_fitted(self)
        X, encoder = self._check_X(X), self._encoder()
        away = encoder.distances(X, self._search(encoder))
        if relative:
            away -= encoder.distances(X, encoder.search(self._codebook.mask))
        return away.mean(axis=1, dtype=np.float64) / self.key_report_["novelty_unit"]

    def audit(self) -> Audit:
        """Account for what was written to which key: shares of keys used, overlaps of classes, who is behind a key.

        Returns
        -------
        Audit
            Of what is learned now; where samples are remembered it also finds those behind a key. See :class:`Audit`.
        """
        check_is_fitted(self)
        self._layout()
        learned, mask = self._learned, self.key_mask_
        codes = (lambda: learned.codes.rows) if learned.keeps_rows else None
        return make_audit(learned.counts.table(), learned.classes, mask, codes)

    @property
    def classes_(self) -> np.ndarray:
        """Labels seen or declared, sorted (k,)."""
        check_is_fitted(self)
        return self._learned.classes

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
        """What logits are divided by: from :meth:`calibrate`, else 1. Solved values are calibrated as they are."""
        check_is_fitted(self)
        settings = self._value_settings()
        if hasattr(self, "_temperature") and getattr(self, "_temperature_with", settings) == settings:
            return self._temperature
        return 1.0

    @property
    def state_bytes_(self) -> int:
        """Bytes of what was learned, beside projection and keys."""
        check_is_fitted(self)
        return self._learned.nbytes

    @property
    def forgetting_is_exact_(self) -> bool:
        """Whether :meth:`forget` leaves no trace: an additive solver, and keys from ``init_keys`` or ``key_data``.

        You vouch that those rows are not among the learned: keys keep the shape of the data they were placed on.
        """
        check_is_fitted(self)
        return self.solver != "sgd" and self._codebook.source != "X"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_learned")

    def _learn(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None, classes: Any, epochs: int) -> Self:
        learned: Learned | None = getattr(self, "_learned", None)
        before = 0 if learned is None else learned.nbytes
        params = self.get_params(deep=False)
        if learned is None:
            learned = self._nothing_learned(self.codes_dir)
        self._learned = learned
        labels = learned.learn(codes, y, weights, classes)
        self._count(learned, codes, labels, 1)
        if self.solver == "sgd":
            samples, device = (codes, labels, weights), resolve_device(self.device)
            step_table(learned, samples, params, epochs=epochs, seed=self._codebook.seed, device=device)
        return self._after_learning(before, epochs)

    def _after_learning(self, before: int, epochs: int) -> Self:
        self._tell_size(before)
        self.n_iter_ = epochs
        self._after_change()
        if isinstance(self._learned.codes, WorkerCodes):
            self._solution()  # while the workers are there
        return self

    def light(self, method: str = "encode") -> Self:
        """Return a copy without data, with the little of what was learned that ``method`` needs: for workers."""
        light = super().light()
        if method != "encode":
            light._learned = self._learned.to_predict(self._solution() if self.solver in JOINT else None)
            if "proba" in method:
                light._temperature = self.temperature_
        return light

    def _forget(self, codes: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Self:
        if self.solver == "sgd" or self._learned.sums is not None:
            self._learned.take_back(codes, y, weights)
            self._count(self._learned, codes, positions_of(y, self._learned.classes), -1)
        else:
            self._learned.forget(codes, y, weights)
        return self._after_change()

    def _after_change(self) -> Self:
        """Drop what was derived; a model whose last sample was forgotten is not fitted."""
        self._scratch.drop("values", "reader", "search", "solution", "distances")
        for name in ("_temperature", "_temperature_with"):
            self.__dict__.pop(name, None)
        if self._learned.n_samples == 0:
            del self._learned
        return self

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = self._check_X(X)
        encoder, device, params = self._encoder(), resolve_device(self.device), self.get_params(deep=False)
        made_from, search = (value_settings(params), device), self._search(encoder)
        read = self._scratch.get(
            "reader",
            lambda: make_reader(self._learned, params, device, lambda: self.values_, self._book()),
            made_from,
        )
        parts = np.array_split(X, range(PREDICT_ROWS, len(X), PREDICT_ROWS))
        return torch.cat([read(encoder.nearest(rows, search)) for rows in parts]).cpu().numpy()

    def _search(self, encoder: Encoder) -> KeySearch:
        """Return the search among used keys."""
        return self._scratch.get("search", lambda: encoder.search(self._learned.counts.used()), encoder)
