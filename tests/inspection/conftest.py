"""One small fit for all displays, and no windows."""

import sys

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr.inspection import TrainingHistory

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def no_window():
    plt = pytest.importorskip("matplotlib.pyplot")
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def X():
    rng = np.random.default_rng(0)
    codes = rng.random((300, 20)) * (rng.random((300, 20)) < 0.2)
    X = codes @ rng.standard_normal((20, 12))
    X.flags.writeable = False
    return X


@pytest.fixture(scope="session")
def sae(X):
    return MFRSparseAutoencoder(
        n_components=20,
        k=3,
        n_saes=2,
        alpha=0.01,
        max_steps=60,
        callback=TrainingHistory(),
        random_state=0,
    ).fit(X)


@pytest.fixture(scope="session")
def alone(X):
    """One SAE with nothing to agree with."""
    return MFRSparseAutoencoder(
        n_components=20, k=3, n_saes=1, n_witnesses=0, max_steps=10, random_state=0
    ).fit(X)


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As if matplotlib were not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
