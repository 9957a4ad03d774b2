"""What goes wrong around the package: kills, full and read-only disks, interrupts."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skmfr.activations._storage
from skmfr import MFRSparseAutoencoder
from skmfr._training.checkpoint import Checkpoints
from skmfr._training.optimiser import SphericalAdam
from skmfr._training.settings import settings_of
from skmfr._training.state import from_arrays
from skmfr.activations import ActivationExtractor
from skmfr.inspection import report
from skmfr.io import load, save

try:
    import resource
except ImportError:  # on Windows
    resource = None

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


def samples(n=200, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 8))


def fitted(**parameters):
    usual = {"n_components": 32, "k": 3, "max_steps": 20, "random_state": 0}
    return MFRSparseAutoencoder(**(usual | parameters)).fit(samples())


# Ways to write a file, each with what it takes to write another one to the same place.


def write_model(folder, again=False):
    save(fitted(warm_start=again), folder / "sae.safetensors")


def write_page(folder, again=False):
    page = report(fitted(), samples(300 if again else 200))
    page.write_html(folder / "atoms.html")


def write_checkpoint(folder, again=False):
    fitted(
        max_steps=20 if again else 10,
        checkpoint_dir=folder,
        checkpoint_every=10,
        warm_start=again,
    )


def write_activations(folder, again=False):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU())
    X = samples(500, seed=int(again)).astype(np.float32)
    out = folder / f"acts{again:d}.npy"
    ActivationExtractor(model, "0", batch_size=50, out=out).transform(X)


WRITERS = {
    "model": write_model,
    "page": write_page,
    "checkpoint": write_checkpoint,
    "activations": write_activations,
}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Kills


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(kind, place, folder):
    skmfr.activations._storage.SECONDS_BETWEEN_NOTES = 0
    if place == "replacing":
        os.replace = die
    else:
        # The system ends the process in the middle of a file.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        largest = max(path.stat().st_size for path in folder.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))
    WRITERS[kind](folder, again=True)


KINDS, PLACES = ["model", "page", "activations"], ["writing", "replacing"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, call_in_process):
    """Folders, by kind and place, what was in them, and what had been written whole."""
    root = tmp_path_factory.mktemp("killed")
    before = {}
    for kind in KINDS:
        whole = root / kind
        whole.mkdir()
        WRITERS[kind](whole)
        before[kind] = contents(whole)
        for place in PLACES:
            folder = root / f"{kind} {place}"
            shutil.copytree(whole, folder)
            ended = call_in_process(write_and_die, kind, place, folder)
            assert ended.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ), ended.result
        WRITERS[kind](whole, again=True)
    return root, before


@linux
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_writer_leaves_what_was_whole_and_can_be_repeated(killed, kind, place):
    root, before = killed
    folder, whole = root / f"{kind} {place}", root / kind
    left = contents(folder)
    assert left.items() > before[kind].items()  # and what was being written

    WRITERS[kind](folder, again=True)
    for path in whole.iterdir():
        found = folder / path.name
        if kind == "model":  # safetensors writes its header in any order
            codes = [load(each).transform(samples()) for each in (path, found)]
            np.testing.assert_array_equal(*codes)
        else:
            assert found.read_bytes() == path.read_bytes()
    # Nothing else but what was being written, which is removed when it is old, and what
    # safetensors writes first.
    more = {path.name for path in folder.iterdir()} - {p.name for p in whole.iterdir()}
    assert all(name.endswith(".tmp") or name.startswith(".tmp") for name in more)


# Disks


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root mounts disks, on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "skmfr", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("not allowed to mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk, room):
    """Leave only so many bytes on a disk."""
    free = os.statvfs(disk)
    (disk / "other").write_bytes(bytes(free.f_bavail * free.f_frsize - room))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_an_error_that_leaves_what_was_whole(disk, kind):
    WRITERS[kind](disk)
    before = contents(disk)
    # Half of what the largest file takes.
    fill(disk, room=max(map(len, before.values())) // 2 // 4096 * 4096)
    with pytest.raises(OSError, match="[Nn]o space left on device"):
        WRITERS[kind](disk, again=True)
    (disk / "other").unlink()
    left = contents(disk)
    if kind == "activations":  # which keep the rows that there are
        assert left.items() > before.items()
    else:
        assert left == before
    WRITERS[kind](disk, again=True)
    assert not [name for name in contents(disk) if name.endswith((".tmp", ".part"))]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_that_is_read_only_is_an_error_and_stays_as_it_is(disk, kind):
    WRITERS[kind](disk)
    before = contents(disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match=str(disk)) as raised:
        WRITERS[kind](disk, again=True)
    assert raised.value.errno == errno.EROFS
    assert contents(disk) == before


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path, kind):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        WRITERS[kind](tmp_path / "file")
    assert contents(tmp_path) == {"file": b"mine"}


# Interrupts


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="not on Windows")
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_interrupt_at_any_moment_leaves_the_steps_that_were_done(method):
    X = samples(1000)
    sae = MFRSparseAutoencoder(32, k=3, max_steps=75, batch_size=20, random_state=0)
    getattr(sae, method)(X)  # all imports are done
    begin = time.perf_counter()
    n_whole, n_interrupted = getattr(clone(sae), method)(X).n_steps_, 0
    whole = time.perf_counter() - begin
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    for share in np.linspace(0.08, 1, 9):
        sae = clone(sae)
        try:
            signal.setitimer(signal.ITIMER_REAL, share * whole)
            getattr(sae, method)(X)
        except KeyboardInterrupt:
            pass  # before the first step, or after the last
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert torch.is_grad_enabled()
        try:
            codes = sae.transform(X)
        except NotFittedError:
            continue
        n_interrupted += sae.n_steps_ < n_whole
        assert len(sae.loss_curve_) == sae.n_steps_ >= 1
        assert np.isfinite(codes).all()
        assert ((codes != 0).sum(axis=1) <= 3).all()
        np.testing.assert_allclose(np.linalg.norm(sae.components_, axis=1), 1)
        assert sae.partial_fit(X[:40]).n_steps_ == len(sae.loss_curve_)
        assert np.isfinite(sae.loss_curve_).all()
    signal.signal(signal.SIGALRM, previous)
    assert n_interrupted > 2  # of 9, wherever the others fell


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_interrupt_does_not_leave_gradients_switched_off(monkeypatch):
    take_step = SphericalAdam.descend

    def interrupted(optimiser):
        take_step(optimiser)
        # It comes while PyTorch has them switched off.
        torch.set_grad_enabled(False)
        raise KeyboardInterrupt

    monkeypatch.setattr(SphericalAdam, "descend", interrupted)
    sae = MFRSparseAutoencoder(32, k=3, max_steps=9, random_state=0)
    try:
        with pytest.raises(KeyboardInterrupt):
            sae.fit(samples(100))
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


# Memory


def resident(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0]) * 1024


def growth(function, *arguments):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = resident("VmRSS")
    function(*arguments)
    return resident("VmHWM") - before


def growths_by_scores(path):
    X = np.load(path, mmap_mode="r")
    sae = MFRSparseAutoencoder(
        4096, k=2, n_saes=1, n_witnesses=0, max_steps=1, sparse_output=True
    ).fit(X[:1000])
    peaks = []
    for algorithm in ("encoder", "lstsq"):
        sae.set_params(transform_algorithm=algorithm).transform(X[:2000])
        peaks.append(growth(sae.transform, X))
    return [*peaks, growth(sae.score, X)]


@linux
def test_scores_of_all_samples_are_never_in_memory_at_once(tmp_path, call_in_process):
    n_rows = 12_000
    X = np.random.default_rng(0).standard_normal((n_rows, 16)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    exitcode, peaks = call_in_process(growths_by_scores, tmp_path / "X.npy")
    assert exitcode == 0, peaks
    assert max(peaks) < 4 * n_rows * 4096 / 4, peaks


def refused(load, argument, path):
    with pytest.raises(ValueError, match=path.name):
        load(argument)


def growths_by_loading(folder):
    """Growth with files, whole and damaged, and their sizes."""
    numbers = []

    def note(path, *call):
        numbers.append((growth(*call), path.stat().st_size))

    X = np.random.default_rng(0).standard_normal((100, 256))
    sae = MFRSparseAutoencoder(4096, k=2, n_saes=1, n_witnesses=1, max_steps=1)
    sae.partial_fit(X)
    settings = settings_of(sae.get_params(), 256, 0, len(X), None)

    model = folder / "model"
    save(sae, model)
    load(model)
    note(model, load, model)
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    note(model, refused, load, model, model)
    model.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    note(model, refused, load, model, model)

    checkpoints = Checkpoints(folder, {})
    decoder = np.concatenate([sae.dictionaries_, sae.witness_dictionaries_])
    arrays = sae._training | {"decoder": decoder.astype(np.float32)}
    checkpoints.save(from_arrays(arrays, settings))
    (path,) = checkpoints.paths()
    note(path, checkpoints.load, settings)
    with ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(path, "w") as archive:
        for name, member in members.items():
            if name == "decoder.npy":
                assert b"4096, 256)" in member
                member = member.replace(b"4096, 256)", b"409600256)")
            archive.writestr(name, member)
    note(path, refused, checkpoints.load, settings, path)
    return numbers


@linux
def test_loading_takes_at_most_twice_the_size_of_a_file(tmp_path, call_in_process):
    exitcode, numbers = call_in_process(growths_by_loading, tmp_path)
    assert exitcode == 0, numbers
    assert len(numbers) == 5
    for grown, size in numbers:
        assert size > 2**24
        # Pages of the mapped file count as long as the system keeps them mapped, beside
        # the arrays made from them; allocators round up.
        assert grown < 2.3 * size, numbers
