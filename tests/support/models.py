"""Models and encoders for tests: from flat settings, with keys placed beforehand, or learning from codes."""

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import Codes, DKVBClassifier, KeyEncoder

OF_ENCODERS = set(KeyEncoder().get_params()) - {"device", "verbose"}
OF_STEPS = {"learning_rate", "batch_size", "label_smoothing", "clip_norm", "max_iter", "partial_fit_epochs"}


def flat(n_heads=1024, n_keys=256, key_dim=2, **settings):
    """Return a classifier with settings of its encoder, of its gradient steps, or its own."""
    settings |= {"n_heads": n_heads, "n_keys": n_keys, "key_dim": key_dim}
    steps = {name: settings.pop(name) for name in OF_STEPS & set(settings)}
    own = {name: settings[name] for name in ("device", "verbose") if name in settings}
    encoder = KeyEncoder(**own, **{name: settings.pop(name) for name in OF_ENCODERS & set(settings)})
    return DKVBClassifier(encoder, solver_params=steps or None, **settings)


def placed(model, X, y=None):
    """Freeze the encoder of a model with keys placed from X, and return the model."""
    encoder = model.encoder if model.encoder is not None else KeyEncoder(random_state=model.random_state)
    return model.set_params(encoder=FrozenEstimator(clone(encoder).fit(X, y)))


def encoder_of(model):
    """Return the fitted encoder of a model that has learned, or whose encoder is frozen."""
    return model.encoder_ if hasattr(model, "encoder_") else model.encoder.estimator


def codes_of(model, X):
    """Return the codes (n, c, m) of rows."""
    encoder = encoder_of(model)
    codes = np.asarray(encoder.transform(X))
    return codes.reshape(len(codes), encoder.keys_.shape[0], -1)


def by_codes(model, call, codes, *arguments, **options):
    """Call a method of a model, whose encoder is frozen, with codes (n, c, m) instead of rows."""
    if not isinstance(model.encoder, FrozenEstimator):
        model.encoder = FrozenEstimator(encoder_of(model))
    codes = np.asarray(codes)
    return getattr(model, call)(Codes.of(codes.reshape(len(codes), -1), encoder_of(model)), *arguments, **options)
