import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder

FITS = {
    "float32": (np.float32, {}),
    "float64": (np.float64, {}),
    "tied": (np.float32, {"tied": True}),
    "alone": (np.float32, {"n_saes": 1, "n_witnesses": 0}),
    "pursuit": (np.float32, {"transform_algorithm": "omp"}),
}


@pytest.fixture
def make_samples():
    """Samples of 8 features."""

    def make(n=100, dtype=np.float32):
        return np.random.default_rng(0).standard_normal((n, 8)).astype(dtype)

    return make


@pytest.fixture
def make_sae(make_samples):
    """A fitted estimator of 24 atoms, 4 of them active."""

    def make(dtype=np.float32, **parameters):
        usual = {"alpha": 0.1, "n_witnesses": 1, "max_steps": 20, "random_state": 0}
        sae = MFRSparseAutoencoder(24, k=4, **(usual | parameters))
        return sae.fit(make_samples(300, dtype) + 3)

    return make


@pytest.fixture(params=FITS.values(), ids=FITS.keys())
def sae(request, make_sae):
    """Fitted estimators of each kind that is exported."""
    dtype, parameters = request.param
    return make_sae(dtype, **parameters)
