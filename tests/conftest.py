"""Tiny seeded data for all tests."""

import numpy as np
import pytest
import torch

collect_ignore_glob = ["data/*"]  # written once, some of it by packages that are not installed

torch.set_num_threads(1)  # tiny products are slower on two threads, and ten times slower on a busy machine


@pytest.fixture
def blobs():
    """Embeddings (240, 12), float32, around five directions, and their classes 0…4."""
    rng = np.random.default_rng(7)
    centres = 3 * rng.standard_normal((5, 12))
    y = np.arange(240) % 5
    return (centres[y] + rng.standard_normal((240, 12))).astype(np.float32), y


@pytest.fixture
def heads():
    """Heads (300, 3, 4) and keys (3, 20, 4), float32, from one normal."""
    rng = np.random.default_rng(11)
    return (
        rng.standard_normal((300, 3, 4)).astype(np.float32),
        rng.standard_normal((3, 20, 4)).astype(np.float32),
    )


@pytest.fixture
def coded():
    """Codes (90, 4, 2), uint8, of seven keys a head, distinct within a head; labels (90,) below 3; weights (90,)."""
    rng = np.random.default_rng(13)
    codes = np.array([[rng.choice(7, size=2, replace=False) for _ in range(4)] for _ in range(90)])
    return codes.astype(np.uint8), rng.integers(3, size=90), rng.uniform(0.5, 2.0, size=90)
