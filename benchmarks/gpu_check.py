"""All that only a GPU can tell, in one command of at most ten minutes.

``python -m benchmarks.gpu_check`` needs a checkout, a GPU and what skmfr needs.  Each
part has its own process and time limit, so that what breaks one leaves the
others alone:

tests
    Those of kernels, optimiser, training and coding that use a GPU if there is one.
agreement
    A fit on the CPU and one on the GPU explain held-out samples equally well (FVU
    within 1 %); one model codes alike on both (to 1e-5), by each algorithm.
device
    Coding, steering and ``loss_recovered`` leave activations on the GPU: of tensors of
    floats, none with more than one number goes to the CPU.
coding
    Samples a second by each algorithm.
trace
    Ten steps of training under PyTorch's profiler: how often they wait for the GPU.
large
    A fit of 3 SAEs of 24,576 atoms in 768 dimensions, k=32, batches of 8192.
speed, sparsify
    ``benchmarks.speed_gpu``: steps of ours, and of sparsify with its kernels where it
    is installed, beside bare products in bfloat16 and TF32.

``--out DIR`` gets ``summary.json`` (of each part its status, seconds and figures, or
why it failed), ``log.txt``, ``trace.json.gz`` and tables.  The exit status is 1 if a
part failed.  ``--dry-run`` runs a small example of every part on the CPU,
where Triton interprets the kernels.
"""

import argparse
import gzip
import json
import os
import pickle
import re
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import _peers, _results, speed, speed_gpu
from benchmarks.speed import Contender, Size, TurnIsOver, take_a_turn
from skmfr import MFRSparseAutoencoder, _kernels
from skmfr._sae.arrays import coder_of
from skmfr.activations import loss_recovered, steer
from skmfr.datasets import make_superposition

# Ways of coding: the algorithm, and whether codes are positive.
WAYS = [("encoder", False), *((a, p) for a in ("lstsq", "omp") for p in (False, True))]
N_TRACED = 10
# Factor of the time limits in a dry run, because Triton's interpreter is slow.
PATIENCE = 10
# Names of events, in a trace, that wait for the GPU.
WAITS = "Synchronize|Memcpy DtoH|aten::_local_scalar_dense|aten::nonzero"


class Scale(NamedTuple):
    """Where, and how large, the parts are."""

    device: str
    tests: list[str]
    agreement: tuple[int, int, int, int, int]
    """samples, features, atoms, k and steps of the fits that are compared"""
    coding: list[Size]
    large: Size
    n_steps: int
    """that are timed, ..."""
    n_warm: int
    """steps before those that count"""
    speed_gpu: list[str]
    """its arguments"""


ON_GPU = Scale(
    "cuda",
    ["tests/kernels", "tests/training", "tests/sae/test_encoder.py"],
    (40_000, 64, 256, 8, 1000),
    [Size(8192, 768, 3072, 32), Size(8192, 768, 24576, 32)],
    Size(8192, 768, 24576, 32),
    80,
    20,
    [],
)
# A size for the interpreter of Triton, which does some twenty rows a second.
SMALL = Size(2, 4, 8, 2)
# A dry run has few tests, because the suite runs all of them interpreted.
DRY = Scale(
    "cpu",
    ["tests/training/test_optimiser.py"],
    (40, 6, 8, 2, 3),
    [SMALL],
    SMALL,
    8,
    2,
    ["--device", "cpu", "--size", *map(str, SMALL)],
)


class Skipped(Exception):
    """A part cannot be had here."""


@contextmanager
def kernels_on_cpu(library: str) -> Iterator[None]:
    """Have another library's kernels serve there."""
    with patch.dict(_kernels.LIBRARIES, cpu=library):
        _kernels.backend.cache_clear()
        yield
    _kernels.backend.cache_clear()


def must(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def copied(sae: MFRSparseAutoencoder, **parameters) -> MFRSparseAutoencoder:
    """A model without coder, which depends on the kernels."""
    return pickle.loads(pickle.dumps(sae)).set_params(**parameters)


def way(algorithm: str, positive: bool) -> dict:
    return {"transform_algorithm": algorithm, "positive_code": positive}


class Outcomes:
    """A plugin for pytest that counts."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)


def tests(scale: Scale, out: Path) -> dict:
    import pytest

    outcomes = Outcomes()
    chosen = ["-k", "triton or gpu or cuda", *scale.tests]
    # Without what the project wants of pytest, which may need plugins.
    options = ["-q", "-ra", "-o", "addopts=", "-p", "no:cacheprovider"]
    status = pytest.main([*options, *chosen], plugins=[outcomes])
    counts = dict(outcomes.counts)
    must(status == 0, f"pytest ended with {status}: {counts}, {outcomes.failed[:20]}")
    return counts


def agreement(scale: Scale, out: Path) -> dict:
    n_samples, n_features, n_components, k, n_steps = scale.agreement
    X, *_ = make_superposition(
        n_samples, n_features, n_components, n_active=k, random_state=0
    )
    X, X_test = np.split(X.astype(np.float32), [n_samples * 3 // 4])
    sae = MFRSparseAutoencoder(
        n_components,
        n_saes=2,
        k=k,
        max_steps=n_steps,
        batch_size=min(1024, n_samples // 4),
        random_state=0,
    )
    with kernels_on_cpu("numba"):
        here = copied(sae, device="cpu").fit(X)
        fvu_here = 1 - here.score(X_test)
        codes = [copied(here, **way(*each)).transform(X_test) for each in WAYS]
    there = copied(sae, device=scale.device).fit(X)
    fvu_there = 1 - there.score(X_test)
    figures = {"FVU, CPU": fvu_here, "FVU, GPU": fvu_there}
    apart = {}
    for each, expected in zip(WAYS, codes, strict=True):
        found = copied(here, device=scale.device, **way(*each)).transform(X_test)
        apart[" ".join(map(str, each))] = float(
            np.abs(found - expected).max() / np.abs(expected).max()
        )
    figures["codes apart, by algorithm and whether positive"] = apart
    must(abs(fvu_there / fvu_here - 1) <= 0.01, f"FVU differs: {figures}")
    must(max(apart.values()) <= 1e-5, f"codes differ: {figures}")
    return figures


class Departures(TorchDispatchMode):
    """Notes how many numbers tensors of floats have that leave a device."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.sizes = device, []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        name = function.overloadpacket.__name__
        if name in ("_to_copy", "copy_"):
            source = arguments[name == "copy_"]
            leaves = source.device.type == self.device != result.device.type
            if leaves and source.is_floating_point():
                self.sizes.append(source.numel())
        return result


def device(scale: Scale, out: Path) -> dict:
    size, n_tokens = scale.large, 64
    n_features, n_rows = size.n_features, min(256, size.batch_size)
    draw = np.random.default_rng(0)
    X = draw.standard_normal((n_rows, n_features), dtype=np.float32)
    sae = MFRSparseAutoencoder(
        2 * n_features,
        n_saes=1,
        n_witnesses=0,
        k=size.k,
        max_steps=2,
        device=scale.device,
        random_state=0,
    ).fit(X)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(n_tokens, n_features), nn.Tanh(), nn.Linear(n_features, n_tokens)
    ).to(scale.device)
    tokens = torch.from_numpy(draw.integers(0, n_tokens, (2, n_rows))).to(scale.device)
    rows = torch.from_numpy(X).to(scale.device)

    def steered() -> None:
        with steer(model, "1", sae, [0, 3], 1.0), torch.no_grad():
            model(tokens)

    works: dict[str, Callable[[], object]] = {
        " ".join(map(str, each)): partial(
            lambda sae: coder_of(sae, rows).reconstruct(rows), copied(sae, **way(*each))
        )
        for each in WAYS
    }
    works["steer"] = steered
    works["loss_recovered"] = lambda: loss_recovered(model, "1", sae, tokens)
    largest = {}
    for name, work in works.items():
        # Weights go to the GPU the first time.
        work()
        with Departures(scale.device) as departures:
            work()
        largest[name] = max(departures.sizes, default=0)
    figures = {"most floats that left at once": largest}
    must(max(largest.values()) <= 1, f"activations left the GPU: {figures}")
    return figures


def coding(scale: Scale, out: Path) -> dict:
    figures: dict[str, dict] = {}
    for size in scale.coding:
        X = torch.from_numpy(size.data(n_batches=1)).to(scale.device)
        sae = MFRSparseAutoencoder(
            size.n_components,
            n_saes=1,
            n_witnesses=0,
            k=size.k,
            max_steps=3,
            device=scale.device,
            random_state=0,
        ).fit(size.data(n_batches=1))
        # A few times are enough where each takes long.
        n_steps = 5
        rates = {}
        for each in WAYS:
            coder = coder_of(copied(sae, **way(*each)), X)
            with patch.multiple(speed_gpu, N_WARM=2), timeline(n_steps):
                seconds = speed_gpu.seconds_of(partial(coder, X), scale.device)
            rates[" ".join(map(str, each))] = size.batch_size / seconds
        product = speed_gpu.product_seconds(size, "TF32", scale.device)
        figures["-".join(map(str, size))] = {
            "rows/s": rates,
            "rows/s of the encoder's product": size.batch_size / product,
        }
    return figures


def timeline(n_steps: int):
    return patch.object(speed_gpu.Timeline, "n_steps", n_steps)


class Traced(speed_gpu.Timeline):
    """Profiles steps once training is under way."""

    def __init__(self, device: str, n_warm: int, profiler: profile):
        super().__init__(device)
        self.n_warm, self.profiler = n_warm, profiler

    def tick(self) -> None:
        super().tick()
        n_taken = len(self.marks) - 1
        if n_taken == self.n_warm:
            self.profiler.start()
        elif n_taken == self.n_warm + N_TRACED:
            self.profiler.stop()
            raise TurnIsOver


def trace(scale: Scale, out: Path) -> dict:
    activities = [ProfilerActivity.CPU]
    if scale.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities)
    step = partial(
        speed.ours,
        n_saes=speed_gpu.N_SAES,
        alpha=1.0,
        n_witnesses=1,
        precision="bfloat16",
        device=scale.device,
    )
    clock = Traced(scale.device, scale.n_warm, profiler)
    n_saes = speed_gpu.N_SAES
    take_a_turn(Contender(step, n_saes, n_saes + 1), scale.coding[0], clock)
    path = out / "trace.json"
    profiler.export_chrome_trace(str(path))
    with gzip.open(out / "trace.json.gz", "wb") as file:
        file.write(path.read_bytes())
    path.unlink()
    events = profiler.key_averages()
    return {
        "calls a step": {
            event.key: event.count / N_TRACED
            for event in events
            if re.search(WAITS, event.key)
        },
        "events": sum(event.count for event in events),
    }


def large(scale: Scale, out: Path) -> dict:
    size, n_steps = scale.large, scale.n_steps
    spectrum = np.arange(1, size.n_features + 1, dtype=np.float32) ** -0.5
    times: list[float] = []
    sae = MFRSparseAutoencoder(
        size.n_components,
        n_saes=speed_gpu.N_SAES,
        k=size.k,
        batch_size=size.batch_size,
        max_steps=n_steps,
        precision="bfloat16",
        device=scale.device,
        callback=lambda step, info: times.append(perf_counter()),
        random_state=0,
    )
    began = perf_counter()
    sae.fit(size.data() * spectrum)
    figures = {
        "seconds": perf_counter() - began,
        "step with a callback, ms": 1e3 * float(np.median(np.diff(times))),
        "loss": sae.loss_curve_[[0, -1]].tolist(),
    }
    if scale.device == "cuda":
        figures["memory, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    first, last = figures["loss"]
    must(last < first, f"the loss does not fall: {figures}")
    return figures


def speed_of(only: str, scale: Scale, out: Path) -> dict:
    words = [*scale.speed_gpu, "--results", str(out), "--only", only]
    with (
        patch.object(sys, "argv", ["speed_gpu", *words]),
        patch.multiple(speed_gpu, N_WARM=scale.n_warm),
        timeline(scale.n_steps),
    ):
        speed_gpu.main()
    tables = sorted(path.stem for path in out.glob("speed_gpu-*.json"))
    return {name: _results.load(name, out)["rows"] for name in tables}


def sparsify(scale: Scale, out: Path) -> dict:
    if "sparsify" not in _peers.installed():
        raise Skipped("eai-sparsify is not installed (requirements-peers.txt)")
    if scale.device == "cpu":
        raise Skipped("its kernels need a GPU")
    return speed_of("sparsify", scale, out)


class Part(NamedTuple):
    run: Callable[[Scale, Path], dict]
    seconds: int
    """that it may take"""


# Parts, the most important first, which take less than ten minutes in all.
PARTS = {
    "tests": Part(tests, 120),
    "agreement": Part(agreement, 60),
    "device": Part(device, 30),
    "coding": Part(coding, 60),
    "trace": Part(trace, 40),
    "speed": Part(partial(speed_of, "ours"), 100),
    "sparsify": Part(sparsify, 50),
    "large": Part(large, 100),
}


def run_here(name: str, dry: bool, out: Path) -> dict:
    """Status and figures of a part, in this process."""
    scale = DRY if dry else ON_GPU
    try:
        with kernels_on_cpu("triton") if dry else nullcontext():
            figures = PARTS[name].run(scale, out)
    except Skipped as reason:
        return {"status": "skipped", "why": str(reason)}
    except Exception as error:
        traceback.print_exc()
        return {"status": "failed", "why": f"{type(error).__name__}: {error}"}
    return {"status": "passed", "figures": figures}


def run_apart(name: str, dry: bool, out: Path) -> dict:
    """The same in another process, for as long as it may take."""
    answer, limit = out / f"{name}.answer", PARTS[name].seconds
    if dry:
        limit *= PATIENCE
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--part", name]
    command += ["--out", str(out), *(["--dry-run"] if dry else [])]
    began = perf_counter()
    with open(out / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"\n== {name}\n")
        log.flush()
        try:
            status = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ({"TRITON_INTERPRET": "1"} if dry else {}),
                timeout=limit,
            ).returncode
            why = f"the process ended with {status}"
        except subprocess.TimeoutExpired:
            why = f"took more than {limit} s"
    outcome = {"status": "failed", "why": why}
    if answer.exists():
        outcome = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
    return outcome | {"seconds": round(perf_counter() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), metavar="DIR")
    parser.add_argument("--only", default="", help="regex of parts to run")
    parser.add_argument("--dry-run", action="store_true", help="in small, on the CPU")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out, dry = arguments.out, arguments.dry_run
    out.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        outcome = run_here(arguments.part, dry, out)
        answer = out / f"{arguments.part}.answer"
        answer.write_text(json.dumps(outcome), encoding="utf-8")
        return 0
    summary = {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _results.commit(),
        "versions": _results.versions(),
        "parts": {},
    }
    for name in PARTS:
        if not re.search(arguments.only, name):
            continue
        summary["parts"][name] = outcome = run_apart(name, dry, out)
        print(name, json.dumps(outcome), flush=True)
        # The results so far, in case the next part ends the process.
        text = json.dumps(summary, indent=1)
        (out / "summary.json").write_text(text, encoding="utf-8")
    failed = [n for n, part in summary["parts"].items() if part["status"] == "failed"]
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
