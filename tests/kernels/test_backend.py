"""Which kernels serve where, what is said of it, and threads, forks and caches."""

import multiprocessing
import os
import shutil
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import skmfr._kernels
from skmfr import MFRSparseAutoencoder
from skmfr._kernels import backend
from skmfr._utils.ambient import undisturbed

CPU = torch.device("cpu")


@pytest.fixture
def not_yet_chosen(monkeypatch):
    """A process in which no device has its kernels yet."""
    monkeypatch.delitem(sys.modules, "skmfr._kernels._numba", raising=False)
    monkeypatch.delattr(skmfr._kernels, "_numba", raising=False)
    backend.cache_clear()
    yield
    backend.cache_clear()


def test_numba_serves_on_the_cpu():
    numba_kernels = pytest.importorskip("skmfr._kernels._numba")
    assert backend(CPU) is numba_kernels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_serves_on_a_gpu():
    triton_kernels = pytest.importorskip("skmfr._kernels._triton")
    assert backend(torch.device("cuda", 0)) is triton_kernels


def test_torch_serves_on_other_devices():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend(torch.device("meta")).__name__ == "skmfr._kernels._torch"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.usefixtures("not_yet_chosen")
def test_torch_serves_where_triton_fails():
    with pytest.warns(UserWarning, match="triton does not run on cuda:0"):
        found = backend(torch.device("cuda", 0))
    assert found.__name__ == "skmfr._kernels._torch"


@pytest.mark.usefixtures("not_yet_chosen")
@pytest.mark.parametrize("numba", [None, ModuleType("numba")])
def test_torch_serves_where_numba_is_missing_or_fails_and_says_so_once(
    monkeypatch, numba
):
    monkeypatch.setitem(sys.modules, "numba", numba)
    with pytest.warns(UserWarning, match="numba does not run on cpu.*pip install"):
        found = backend(CPU)
    assert found.__name__ == "skmfr._kernels._torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend(CPU) is found


def test_a_fit_without_numba_is_the_same_and_warns_once(monkeypatch, request):
    pytest.importorskip("numba")
    X = np.random.default_rng(0).standard_normal((300, 12))

    def fit():
        sae = MFRSparseAutoencoder(16, k=3, max_steps=20, random_state=0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            sae.fit(X)
        n_told = sum("numba does not run" in str(each.message) for each in told)
        return sae.components_, n_told

    expected, n_told = fit()
    assert n_told == 0
    request.getfixturevalue("not_yet_chosen")
    monkeypatch.setitem(sys.modules, "numba", None)
    found, n_told = fit()
    assert n_told == 1
    # Trained in float32, with sums in another order.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert fit()[1] == 0


def in_fork(scores, k):
    from skmfr._kernels import _numba

    with undisturbed():
        return _numba.largest(scores, k)


# What OpenMP knows of its threads does not survive a fork; what Numba does then is to
# end the process.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_kernels_run_in_forked_processes(monkeypatch):
    kernels = pytest.importorskip("skmfr._kernels._numba")
    monkeypatch.setattr(kernels, "WORTH_A_THREAD", 1)
    scores = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))
    with threadpool_limits(2):
        expected = kernels.largest(scores, 3)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply_async(in_fork, (scores, 3)).get(timeout=60)
    for part, other in zip(found, expected, strict=True):
        assert torch.equal(part, other)


def test_torch_serves_where_numba_has_the_layer_workqueue_alone(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr("numba.core.config.THREADING_LAYER", "workqueue")
    backend.cache_clear()
    with pytest.warns(UserWarning, match="numba does not run on cpu.*workqueue"):
        assert backend(torch.device("cpu")).__name__ == "skmfr._kernels._torch"
    backend.cache_clear()


def test_more_threads_are_asked_for_only_if_there_is_enough_to_do(monkeypatch):
    bounds = pytest.importorskip("skmfr._kernels._numba")._bounds
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    worth = sys.modules["skmfr._kernels._numba"].WORTH_A_THREAD
    assert bounds(10, worth - 1) == [0, 10]
    assert bounds(10, 3 * worth) == [0, 3, 6, 10]
    assert bounds(10, 9 * worth) == [0, 2, 5, 7, 10]
    assert bounds(2, 9 * worth) == [0, 1, 2]


def test_compiled_kernels_get_no_arrays_that_they_would_misread():
    kernels = pytest.importorskip("skmfr._kernels._numba")
    X, indices = torch.ones(2, 3), torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"array 2 is .*not of torch\.float32"):
        kernels.gather_dot(X, X.double(), indices)
    with pytest.raises(TypeError, match=r"array 4 is .*not of torch\.int64"):
        kernels.gather_dot(X, X, indices.int())
    sums = torch.zeros(3, 2).T
    with pytest.raises(TypeError, match="array 3 is not contiguous"):
        kernels.bag_sums(X, indices[:, 0], torch.arange(3), torch.ones(2), sums, False)


def compile_kernel(folder):
    """Call a kernel of the copy of the package in a folder, in a home of its own."""
    homes = dict.fromkeys(["HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"], folder / "user")
    os.environ |= {name: str(home) for name, home in homes.items()}
    import_module("numba").config.CACHE_DIR = ""
    sys.path.insert(0, str(folder / "package"))
    for name in [name for name in sys.modules if name.split(".")[0] == "skmfr"]:
        del sys.modules[name]
    kernels = import_module("skmfr._kernels._numba")
    assert kernels.__file__.startswith(str(folder))
    one, first = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64)
    kernels.gather_dot(one, one, first)


def test_compiled_kernels_are_kept_where_files_may_be_written(
    tmp_path, call_in_process
):
    pytest.importorskip("numba")
    # And where they are kept.
    cases = {"package": {"package"}, "user's folder": {"user"}, "neither": set()}
    for may_be_written, expected in cases.items():
        package, user = (tmp_path / may_be_written / x for x in ("package", "user"))
        shutil.copytree(
            Path(skmfr.__file__).parent,
            package / "skmfr",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        # A file in the place of a folder is in the way of any user, even of root.
        if may_be_written != "package":
            (package / "skmfr" / "_kernels" / "__pycache__").touch()
        if may_be_written == "neither":
            user.touch()
        else:
            user.mkdir()
        ended = call_in_process(compile_kernel, tmp_path / may_be_written)
        assert ended.exitcode == 0, ended.result
        kept = {
            file.relative_to(tmp_path / may_be_written).parts[0]
            for file in (tmp_path / may_be_written).rglob("_numba._gather_dot*.nbc")
        }
        assert kept == expected
