import os
import tracemalloc
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from struct import pack

# Of several processes that run tests each has one core; threads of OpenMP that wait for
# others would keep those busy.  Before anything is imported that has such threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from forks import CAN_FORK, Forebear, in_process
from threadpoolctl import threadpool_limits

FOREBEAR = pytest.StashKey[Forebear]()


# In the processes that run tests. The one that hands them out does without PyTorch.
def pytest_collectstart():
    prepare()


def pytest_collection_finish(session):
    if CAN_FORK:
        session.config.stash[FOREBEAR] = Forebear()


def pytest_unconfigure(config):
    if FOREBEAR in config.stash:
        config.stash[FOREBEAR].end()


def folder_of_kernels() -> Path:
    """Where Numba keeps the kernels of these sources; those of others are removed.

    It takes a compiled kernel for the present one while the file that defines it is the
    same, even if functions that it calls, in other files, are not.
    """
    root = Path(__file__).parents[1]
    sources = sorted((root / "skmfr" / "_kernels").glob("*.py"))
    content = b"".join(path.read_bytes() for path in sources)
    kept = root / ".pytest_cache" / "kernels" / sha256(content).hexdigest()[:16]
    for folder in kept.parent.glob("*"):
        if folder != kept:
            rmtree(folder, ignore_errors=True)
    return kept


@cache
def prepare():
    """Set what libraries read when tests import them."""
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder_of_kernels()))
    import torch
    from hypothesis import Phase, settings

    # Without a GPU, Triton interprets kernels with NumPy.  It looks when it is
    # imported, which transformers does for other tests.
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"

    # Cases of tests/test_properties.py, and histories of tests/test_histories.py: the
    # same in each run, or many others.
    phases = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
    settings.register_profile(
        "ci", max_examples=100, derandomize=True, deadline=None, phases=phases
    )
    settings.register_profile(
        "nightly", max_examples=2500, deadline=None, phases=phases, print_blob=True
    )
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def call_in_process(pytestconfig):
    """Call a function of a module in a process of its own, which has no threads yet."""
    return pytestconfig.stash.get(FOREBEAR, in_process)


@pytest.fixture(params=["torch", "numba", "numba in two threads", "triton"])
def kernels(request, monkeypatch):
    """Each module of kernels whose library is there; Numba's own threads are tested."""
    library, *threads = request.param.split(maxsplit=1)
    module = pytest.importorskip(f"skmfr._kernels._{library}")
    # Several threads for however little there is to do.
    monkeypatch.setattr(module, "WORTH_A_THREAD", 1, raising=False)
    with threadpool_limits(2 if threads else 1):
        yield module


@pytest.fixture
def device(kernels):
    """Where the kernels run; those for GPUs are interpreted if there is none."""
    import torch

    for_gpus = kernels.__name__.endswith("triton")
    return "cuda" if for_gpus and torch.cuda.is_available() else "cpu"


@pytest.fixture
def make_settings():
    """Settings of a small fit in float64, with some changed."""
    import torch

    from skmfr._training.settings import Settings

    def make(**changes) -> Settings:
        usual = {
            "n_components": 24,
            "n_saes": 3,
            "n_witnesses": 0,
            "witness_rows": "same",
            "k": 3,
            "activation": "topk",
            "alpha": 0.0,
            "matching": "hungarian",
            "tied": False,
            "learning_rate": 0.01,
            "reinit_threshold": None,
            "reinit_every": None,
            "share_atoms": True,
            "seed": 0,
            "device": "cpu",
            "dtype": torch.float64,
            "low_precision": False,
            "for_pursuit": False,
            "positive_code": False,
        }
        return Settings(**(usual | changes))

    return make


# Of each kind of file; more than the usual take minutes.
N_DAMAGED = int(os.environ.get("SKMFR_N_DAMAGED", 250))


@pytest.fixture
def count_refused():
    """How many of so many damaged files are refused, with an error that names them."""
    return _count_refused


def _count_refused(path, load, assert_same, fragile, n_damaged=N_DAMAGED):
    """The others must load as the whole file does; none may take twice its size.

    Parameters
    ----------
    path : Path
        A whole file.
    load : callable() -> object
    assert_same : callable(loaded, expected)
    fragile : slice
        The bytes where there is more to break.
    n_damaged : int

    Returns
    -------
    float
        Share of the files that were refused.
    """
    content, expected = path.read_bytes(), load()
    draw = np.random.default_rng(0)
    n_refused = 0
    tracemalloc.start()
    for _ in range(n_damaged):
        path.write_bytes(damaged(content, draw, fragile))
        size, (before, _) = path.stat().st_size, tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        try:
            loaded = load()
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017
            n_refused += 1
        else:
            assert_same(loaded, expected)
        _, peak = tracemalloc.get_traced_memory()
        # The zipfile module has room for a megabyte, whatever there is to read.
        assert peak - before < 2 * size + 2**20 + 100_000
    tracemalloc.stop()
    return n_refused / n_damaged


def damaged(content, draw, fragile):
    """A file with one of the damages that files take."""
    content, place = bytearray(content), int(draw.integers(len(content)))
    inside = int(draw.integers(fragile.start, fragile.stop))
    kind = draw.integers(8)
    if kind == 0:
        content[place] ^= 1 << int(draw.integers(8))
    elif kind == 1:
        content[inside] ^= 1 << int(draw.integers(8))
    elif kind == 2:
        del content[place:]
    elif kind == 3:  # a number
        at = draw.choice([fragile.start, inside])
        content[at : at + 8] = draw.bytes(8) if draw.integers(2) else pack("<Q", place)
    elif kind == 4:
        content[place:place] = draw.bytes(int(draw.integers(1, 20)))
    elif kind == 5:
        other = int(draw.integers(len(content)))
        length = int(draw.integers(1, 200))
        content[place : place + length] = content[other : other + length]
    elif kind == 6:
        content[inside : inside + 8] = b""
    else:  # one digit for another
        part = content if draw.integers(2) else content[fragile]
        digits = [i for i, each in enumerate(part) if chr(each).isdecimal()]
        start = 0 if part is content else fragile.start
        content[start + draw.choice(digits)] = ord(str(draw.integers(10)))
    return bytes(content)
