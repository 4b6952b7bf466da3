"""Gradient-trained heads that learn on the stream and forget: a linear probe, or an MLP with one hidden
layer.

Room: a leaf; what a user would put on frozen features without a bottleneck, kept fair to itself.
Enters: embeddings (n,f) float32 and labels (n,) a stage at a time; unlabelled embeddings once, for the scale.
Leaves: predictions (n,).
Must not know: streams, caches, the estimator, paths.

Fair means that each stage is learned well before the next one comes: features are standardised by one fixed
rule, the optimiser makes many steps a stage at a learning rate that suits standardised features, and all
classes are declared at the start. What is lost afterwards is then forgetting, not poor training.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

__all__ = ["StreamProbe"]


class StreamProbe:
    """Softmax head trained by Adam on whatever arrives, a stage at a time.

    Parameters
    ----------
    n_classes : int
        Number of classes that will ever arrive; labels are 0 to ``n_classes - 1``.
    hidden : int, optional
        Width of a hidden ReLU layer; None makes the head linear.
    learning_rate : float
        Step of Adam, above 0.
    epochs : int
        Passes over the rows of each `partial_fit`, 1 or more.
    min_steps : int
        Steps that each `partial_fit` makes at least; a short stage gets more passes.
    batch_size : int
        Rows a step, 1 or more.
    standardise : bool
        Subtract the mean and divide by the deviation of each feature; else features are taken as they come.
    random_state : int
        Seed of the initial weights and of the order of rows.

    Attributes
    ----------
    mean_, scale_ : ndarray of float32 (f,)
        What is subtracted from, and divides, each feature; fixed by `init_scale` or the first rows seen.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> X = rng.normal(size=(40, 3)).astype(np.float32) + 4 * y[:, None].astype(np.float32)
    >>> probe = StreamProbe(n_classes=2, learning_rate=0.1).partial_fit(X, y)
    >>> float((probe.predict(X) == y).mean())
    1.0
    """

    def __init__(
        self,
        n_classes: int,
        *,
        hidden: int | None = None,
        learning_rate: float = 1e-3,
        epochs: int = 20,
        min_steps: int = 200,
        batch_size: int = 64,
        standardise: bool = True,
        random_state: int = 0,
    ) -> None:
        self.n_classes = n_classes
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.standardise = standardise
        self.random_state = random_state
        self._network: nn.Module | None = None

    def init_scale(self, X: np.ndarray) -> "StreamProbe":
        """Fix the standardisation from unlabelled embeddings (n,f), once and for all.

        Raises
        ------
        ValueError
            If `X` is not a matrix with at least two rows, or the head has begun to learn.
        """
        X = _as_matrix(X)
        if self._network is not None:
            raise ValueError("init_scale came after learning began; it is expected before: make a new probe")
        if len(X) < 2:
            raise ValueError(f"init_scale got {len(X)} rows; two or more are expected: give it more")
        self.mean_ = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = X.std(axis=0, dtype=np.float64)
        # A feature that is constant here may still move later: without a floor it would swamp all others.
        floor = max(0.1 * float(deviation.mean()), 1e-12)
        self.scale_ = np.maximum(deviation, floor).astype(np.float32)
        return self

    def partial_fit(self, X: np.ndarray, y: np.ndarray) -> "StreamProbe":
        """Train on these rows alone, `epochs` times or until `min_steps` steps were made.

        Parameters
        ----------
        X : ndarray of float (n,f)
            Embeddings.
        y : ndarray of int (n,)
            Labels from 0 to ``n_classes - 1``.

        Returns
        -------
        StreamProbe
            Itself.

        Raises
        ------
        ValueError
            If the shapes do not fit each other or earlier rows, or a label lies outside the declared classes.
        """
        X, y = _as_matrix(X), np.asarray(y, dtype=np.int64)
        self._check_labels(X, y)
        if not hasattr(self, "mean_"):
            self.init_scale(X)
        network = self._network or self._start(X.shape[1])
        inputs, targets = self._standardise(X), torch.tensor(y)
        steps_a_pass = -(-len(y) // self.batch_size)
        for _ in range(max(self.epochs, -(-self.min_steps // steps_a_pass))):
            order = torch.randperm(len(y), generator=self._generator)
            for rows in order.split(self.batch_size):
                self._step(network, inputs[rows], targets[rows])
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities (n,k) float32, one column a declared class.

        Raises
        ------
        ValueError
            If nothing has been learned, or `X` has another number of features.
        """
        if self._network is None:
            raise ValueError("this probe has learned nothing; one partial_fit is expected: call it first")
        with torch.inference_mode():
            return torch.softmax(self._network(self._standardise(_as_matrix(X))), dim=1).numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable class (n,) int64; raises as `predict_proba` does."""
        return self.predict_proba(X).argmax(axis=1)

    def _start(self, n_features: int) -> nn.Module:
        self._generator = torch.Generator().manual_seed(self.random_state)
        hidden = [] if self.hidden is None else [self.hidden]
        widths = [n_features, *hidden, self.n_classes]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            # skip_init leaves torch's global generator alone: all randomness is ours.
            layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
            bound = fan_in**-0.5
            for tensor in (layer.weight, layer.bias):
                nn.init.uniform_(tensor, -bound, bound, generator=self._generator)
            layers += [layer, nn.ReLU()]
        self._network = nn.Sequential(*layers[:-1])
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=self.learning_rate)
        return self._network

    def _step(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self._optimiser.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()
        self._optimiser.step()

    def _standardise(self, X: np.ndarray) -> torch.Tensor:
        if X.shape[1] != len(self.mean_):
            raise ValueError(
                f"X has {X.shape[1]} features, this probe was scaled for {len(self.mean_)}; the same number "
                f"is expected: use embeddings of one backbone"
            )
        if not self.standardise:
            return torch.from_numpy(X)
        # Far outliers of foreign scale data would blow up single steps.
        return torch.from_numpy(np.clip((X - self.mean_) / self.scale_, -10.0, 10.0))

    def _check_labels(self, X: np.ndarray, y: np.ndarray) -> None:
        if y.shape != (len(X),) or not len(y):
            raise ValueError(
                f"X has {len(X)} rows and y has shape {y.shape}; one label a row, and a row at least, are "
                f"expected: pass arrays of one length"
            )
        if y.min() < 0 or y.max() >= self.n_classes:
            raise ValueError(
                f"labels run from {y.min()} to {y.max()}; 0 to {self.n_classes - 1} is expected for "
                f"n_classes={self.n_classes}: renumber the labels or raise n_classes"
            )


def _as_matrix(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, dtype=np.float32)
    if X.ndim != 2:
        raise ValueError(f"X has shape {X.shape}; (samples, features) is expected: pass a matrix")
    return X
