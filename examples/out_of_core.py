"""Learn and predict from a cache larger than memory: only one block of rows is loaded at a time."""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from dkvb_estimator import DKVBClassifier, KeyEncoder
from pipeline.cache import CacheHeader, SplitRows, open_cache, write_cache

X, y = load_digits(return_X_y=True)
parts = {"train": slice(0, 1200), "test": slice(1200, None)}

with tempfile.TemporaryDirectory() as folder:
    # If the pipeline has embedded your images, this file exists already: open_cache("caches/digits.h5").
    blocks = {name: (rows for rows in np.array_split(X[part].astype(np.float32), 10)) for name, part in parts.items()}
    ids = {name: [f"{name}-{number}" for number in range(len(y[part]))] for name, part in parts.items()}
    header = CacheHeader(
        fingerprint="0" * 64,
        backbone={"id": "pixels"},
        preprocessing={},
        tap="none",
        compute_dtype="float32",
        storage_dtype="float32",
        manifest_sha256="0" * 64,
        dataset="digits",
        class_names=tuple("0123456789"),
    )
    path = Path(folder) / "digits.h5"
    write_cache(path, header, {name: SplitRows(blocks[name], y[part], ids[name]) for name, part in parts.items()})

    with open_cache(path) as cache:
        model = DKVBClassifier(KeyEncoder(128, 64, random_state=0), codes_dir=folder)
        model.fit(cache.lazy("train"), cache.labels("train"))  # codes go into a file too
        predicted = model.predict(cache.lazy("test"))
        print(f"accuracy {np.mean(predicted == cache.labels('test')):.3f}")
        same = model.predict(cache.to_dask("test"))  # or lazily, with dask
        print(same)
        print("the same predictions:", bool((same.compute() == predicted).all()))
