"""The same results in other processes and threads, and no waiting for ever."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import skmfr
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


# Fits and transforms here, in a forked process and in a new one.
SCRIPT = """
import multiprocessing, sys, warnings
import numpy as np
from test_threads import X, estimator, threads

warnings.simplefilter("ignore")
sae = estimator(precision="float64").fit(X)
found = {"atoms": sae.components_, "codes": sae.transform(X), "threads": threads()}
for method in {"fork", "spawn"}.intersection(multiprocessing.get_all_start_methods()):
    with multiprocessing.get_context(method).Pool(1) as pool:
        found[f"{method} threads"] = pool.apply(threads)
        found[f"{method} codes"] = pool.apply(sae.transform, [X])
        found[f"{method} atoms"] = pool.apply(sae.fit, [X]).components_
        found[f"{method} threads after"] = pool.apply(threads)
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def results_of_processes(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "found.npz"
    folders = [Path(skmfr.__file__).parents[1], Path(__file__).parent]
    subprocess.run(
        [sys.executable, "-c", SCRIPT, path],
        check=True,
        timeout=200,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            # A fork believes that it has both threads.
            "OMP_NUM_THREADS": "2",
            "MKL_NUM_THREADS": "2",
            # Nothing depends on the order of sets.
            "PYTHONHASHSEED": "random",
        },
    )
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("what", ["atoms", "codes"])
def test_another_process_gives_the_same_bytes(results_of_processes, what):
    found = results_of_processes
    np.testing.assert_array_equal(found[f"spawn {what}"], found[what])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_computes_and_does_not_wait_for_ever(results_of_processes):
    # In one thread, which rounds sums differently.
    for what in ("atoms", "codes"):
        found = results_of_processes[f"fork {what}"]
        np.testing.assert_allclose(found, results_of_processes[what], atol=1e-9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_keeps_its_threads(results_of_processes):
    found = results_of_processes
    assert max(found["threads"]) == 2
    np.testing.assert_array_equal(found["fork threads"], found["threads"])
    np.testing.assert_array_equal(found["fork threads after"], found["threads"])


def test_another_number_of_threads_gives_the_same_up_to_rounding(results_of_processes):
    with threadpool_limits(1):
        atoms = components(estimator(precision="float64"))
    np.testing.assert_allclose(results_of_processes["atoms"], atoms, atol=1e-9)


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
