"""Many fits and long ones leave nothing behind: benchmarks/load.py in small."""

import gc
import tracemalloc

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = np.random.default_rng(0).standard_normal((64, 6))


def estimator(**changes):
    usual = {"n_components": 12, "k": 2, "max_steps": 2, "random_state": 0}
    return MFRSparseAutoencoder(**usual | changes)


def use(n):
    """Fit, code with, and drop so many estimators that do different things."""
    for number in range(n):
        estimator(
            n_components=8 + number % 5,
            matching=("hungarian", "max")[number % 2],
            transform_algorithm=("encoder", "lstsq", "omp")[number % 3],
            random_state=number,
        ).fit(X).transform(X)


def test_estimators_that_are_dropped_leave_no_memory_behind():
    # Modules are loaded, and caches filled, by the first ones.
    use(10)
    gc.collect()
    tracemalloc.start()
    use(6)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    use(24)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A fourth of what the estimators hold, 20 kB or more each: Python keeps small
    # objects for the next ones.
    assert after - before < 24 * 5 * 1024


def test_many_steps_do_not_move_atoms_from_the_sphere():
    sae = estimator(max_steps=1000).fit(X)
    np.testing.assert_allclose(np.linalg.norm(sae.dictionaries_, axis=2), 1, rtol=1e-12)
    assert len(sae.loss_curve_) == sae.n_steps_ == 1000
    assert np.isfinite(sae.loss_curve_).all()


# Where integers of 32 bits end, and counters in float32 and float64 stand still.
@pytest.mark.parametrize("n_steps", [2**24, 2**31, 2**53])
def test_training_goes_on_where_counters_end(n_steps):
    sae = estimator().partial_fit(X)
    for name, array in sae._training.items():
        if name.endswith(" step") or name == "idle":
            sae._training[name] = np.full_like(array, n_steps)
    for _ in range(30):
        sae.partial_fit(X)
    assert sae.n_steps_ == 31
    assert sae.loss_curve_[-5:].mean() < 0.9 * sae.loss_curve_[:5].mean()
    np.testing.assert_allclose(np.linalg.norm(sae.dictionaries_, axis=2), 1, rtol=1e-12)
