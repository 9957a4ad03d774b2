"""The same results in other processes and threads, and no waiting for ever."""

import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import joblib
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from skmfr import MFRSparseAutoencoder

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
# Large enough for torch to use its threads.
X = np.random.default_rng(0).standard_normal((1000, 64))


def estimator(**changes):
    usual = {"n_components": 128, "k": 4, "max_steps": 5, "random_state": 0}
    return MFRSparseAutoencoder(**usual | changes)


def components(sae):
    return sae.fit(X).components_


def threads():
    """Threads of all libraries, in the order in which they are found."""
    return [library["num_threads"] for library in threadpool_info()]


@pytest.fixture(scope="module")
def in_two_threads():
    """A fit, its codes, and threads, here and in a forked process."""
    found = {}
    with threadpool_limits(2):
        sae = estimator(precision="float64").fit(X)
        found |= {"atoms": sae.components_, "codes": sae.transform(X)}
        found["threads"] = threads()
        if hasattr(os, "fork"):
            # It believes that it has both threads.
            with get_context("fork").Pool(1) as pool:
                found["fork threads"] = pool.apply(threads)
                found["fork codes"] = pool.apply(sae.transform, [X])
                found["fork atoms"] = pool.apply(components, [sae])
                found["fork threads after"] = pool.apply(threads)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_computes_and_does_not_wait_for_ever(in_two_threads):
    # In one thread, which rounds sums differently.
    for what in ("atoms", "codes"):
        found = in_two_threads[f"fork {what}"]
        np.testing.assert_allclose(found, in_two_threads[what], atol=1e-9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_keeps_its_threads(in_two_threads):
    assert max(in_two_threads["threads"]) == 2
    for when in ("fork threads", "fork threads after"):
        np.testing.assert_array_equal(in_two_threads[when], in_two_threads["threads"])


def test_another_number_of_threads_gives_the_same_up_to_rounding(in_two_threads):
    with threadpool_limits(1):
        atoms = components(estimator(precision="float64"))
    np.testing.assert_allclose(in_two_threads["atoms"], atoms, atol=1e-9)


@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
def test_threads_that_share_a_model_give_the_same_codes(algorithm):
    sae = estimator().fit(X).set_params(transform_algorithm=algorithm)
    expected = sae.transform(X)
    with ThreadPoolExecutor(2) as pool:
        for codes in pool.map(lambda part: sae.transform(X), range(8)):
            np.testing.assert_array_equal(codes, expected)


# Loky and dask: tests/test_estimator.py.
@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_fits_side_by_side_give_what_fits_one_by_one_give(backend):
    # In float64, for the number of threads of a worker is another.
    parameters = [{"alpha": alpha, "precision": "float64"} for alpha in (0.0, 1.0)]
    expected = [components(estimator(**values)) for values in parameters]
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = joblib.Parallel()(
            joblib.delayed(components)(estimator(**values)) for values in parameters
        )
    np.testing.assert_allclose(found, expected, atol=1e-9)
