"""A new process: what it imports, what that leaves alone, and the same results as here.

One for all tests, since to start it takes longer than what it is asked.
"""

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import skmfr
from skmfr import MFRSparseAutoencoder

SCRIPT = """
import importlib, json, pickle, random, sys
import numpy as np

def audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} in a process that needs no network")

sys.addaudithook(audit)
folder, heavy, stages = sys.argv[1], *map(json.loads, sys.argv[2:])

def generators():
    states = [random.getstate(), np.random.get_state()[1].tolist()]
    if "torch" in sys.modules:
        states.append(sys.modules["torch"].get_rng_state().tolist())
    return states

imported, left_alone = {}, []
for stage, names in stages.items():
    before = generators()
    for name in names.split():
        importlib.import_module(name)
    imported[stage] = [name for name in heavy if name in sys.modules]
    if "skmfr" in names:
        left_alone.append(generators() == before)

X, before = np.load(f"{folder}/X.npy"), generators()
with open(f"{folder}/fitted.pickle", "rb") as file:
    sae = pickle.load(file)
codes = sae.transform(X)
np.savez(f"{folder}/found.npz", codes=codes, atoms=sae.fit(X).components_)
# All that draws random numbers, and more that might.
sae.set_params(
    n_components=8, k=2, reinit_threshold=0.0, reinit_every=1, verbose=1
).fit(X[:50, :4]).partial_fit(X[:50, :4])
for algorithm in ("encoder", "lstsq", "omp"):
    sae.set_params(transform_algorithm=algorithm).transform(X[:50, :4])
left_alone.append(generators() == before)
with open(f"{folder}/found.json", "w") as file:
    json.dump([imported, left_alone], file)
"""
HEAVY = (
    "dask matplotlib mne numba pandas polars pooch safetensors torch transformers "
    "triton zarr"
)
LIGHT = "agreement datasets eeg inspection io metrics"
# Each after those before it.
STAGES = {
    "scikit-learn": "sklearn.decomposition",
    "light": " ".join(["skmfr", *(f"skmfr.{name}" for name in LIGHT.split())]),
    "torch": "torch.distributed.nn.functional",
    "about torch": "skmfr.activations skmfr.distributed",
    "training": "skmfr._estimator skmfr._training.fit skmfr._sae.coder",
}
# Large enough for torch to use its threads.
X = np.random.default_rng(0).standard_normal((1000, 64))


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings(), threadpool_limits(2):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MFRSparseAutoencoder(
            128, k=4, max_steps=5, precision="float64", random_state=0
        ).fit(X)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fitted):
    """What the process found."""
    folder = tmp_path_factory.mktemp("new")
    np.save(folder / "X.npy", X)
    (folder / "fitted.pickle").write_bytes(pickle.dumps(fitted))
    arguments = map(json.dumps, (HEAVY.split(), STAGES))
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, folder, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=200,
        env=os.environ
        | {
            "PYTHONPATH": str(Path(skmfr.__file__).parents[1]),
            "OMP_NUM_THREADS": "2",
            "MKL_NUM_THREADS": "2",
            # Nothing depends on the order of sets.
            "PYTHONHASHSEED": "random",
        },
    )
    return folder


@pytest.fixture(scope="module")
def imported(folder):
    """Which heavy packages are imported after each stage."""
    imported, _ = json.loads((folder / "found.json").read_text())
    return imported


def test_imports_are_light_and_need_no_network(imported):
    # scikit-learn may import some itself.
    assert imported["light"] == imported["scikit-learn"]
    assert not {"matplotlib", "mne", "torch"}.intersection(imported["light"])


def test_what_is_about_torch_imports_it_and_nothing_else(imported):
    # With torch comes what it imports itself.
    assert "torch" in imported["torch"]
    assert imported["about torch"] == imported["torch"]


def test_training_imports_its_kernels_when_it_needs_them(imported):
    assert imported["training"] == imported["torch"]


def test_global_generators_are_left_alone(folder):
    _, left_alone = json.loads((folder / "found.json").read_text())
    assert left_alone == [True] * 4  # by three imports, and by fits


def test_another_process_gives_the_same_bytes(folder, fitted):
    with threadpool_limits(2):
        codes = fitted.transform(X)
    with np.load(folder / "found.npz") as found:
        np.testing.assert_array_equal(found["atoms"], fitted.components_)
        np.testing.assert_array_equal(found["codes"], codes)
