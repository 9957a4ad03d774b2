"""Does it denoise EEG, compared with what is used for that, and at what cost?

``python -m benchmarks.eeg single --data DIR`` mixes clean single-channel epochs with
ocular or muscular artefacts and prints a row for each way to get them out again, with
errors on epochs of people that training has not seen: mean and standard deviation over
splits.  ``multi`` does the same with 19 channels and ocular topographies, ``muscles``
with muscular ones.  ``kept`` asks what is left of the brain where nobody has clean
signals, ``added`` takes heartbeats and muscles out of whole recordings that they were
added to, and ``real`` says what is taken out of recordings as they are, clean ones
among them, ``references`` in other references than the average. ``paper`` reconstructs
an unseen person in the paper's setting, ``decode`` classifies before and after
denoising, ``speed`` measures time and memory.

DIR has the folders ``eegmat`` and ``eegmmidb``, EDF files of PhysioNet, and
``semisim``, epochs to mix: see ``docs/eeg_benchmark.md``.  Rows whose package is not
installed (pywavelets, mne-denoise, mne-icalabel, gedai, pyriemann) are left out, with a
message.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from benchmarks import _data, _eeg_kept, _eeg_peers
from benchmarks import _eeg_baselines as baselines
from benchmarks._eeg_added import rows_of_added
from benchmarks._eeg_baselines import SFREQ
from benchmarks._eeg_decoding import decoded
from benchmarks._eeg_methods import FRONTAL, SINGLE, Method, little_sae, multi_methods
from benchmarks._eeg_mixtures import N_REPEATS, Split, multi_split, single_split
from benchmarks._eeg_paper import of_unseen_people
from benchmarks._eeg_real import of_other_references, of_whole_recordings
from benchmarks._eeg_speed import memories, times
from benchmarks._methods import DIGITS, over_seeds
from benchmarks._results import Command, Report, Row
from skmfr.eeg import EEGDenoiser, correlation, rrmse_s, rrmse_t


def measure(split: Split, denoised: np.ndarray) -> dict[str, float]:
    pair = split.clean_test, denoised
    return {
        "RRMSE_t": float(rrmse_t(*pair).mean()),
        "RRMSE_s": float(rrmse_s(*pair).mean()),
        "CC": float(correlation(*pair).mean()),
    }


def compared(
    methods: dict[str, Method], splits: list[Split], only: str
) -> Iterator[Row]:
    """A row for each method, with errors of each split."""
    for name in filter(partial(re.search, only), methods):
        print(name, file=sys.stderr)
        rows = []
        try:
            for seed, split in enumerate(splits):
                began = perf_counter()
                denoised = methods[name](split, seed)
                seconds = perf_counter() - began
                rows.append(measure(split, denoised) | {"seconds": seconds})
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        yield over_seeds(name, rows)


def single(arguments: argparse.Namespace, report: Report) -> None:
    for artefact in arguments.artefacts:
        splits = [
            single_split(
                arguments.data,
                artefact,
                seed,
                not arguments.microvolts,
                arguments.most,
            )
            for seed in range(arguments.seeds)
        ]
        print_sizes(splits)
        report(
            compared(SINGLE, splits, arguments.only),
            {"table": "single", "artefacts": artefact},
            DIGITS,
        )


def multi(arguments: argparse.Namespace, report: Report) -> None:
    artefact = "EOG" if arguments.table == "multi" else "EMG"
    made = [
        multi_split(
            arguments.data,
            seed,
            not arguments.microvolts,
            arguments.most,
            artefact,
        )
        for seed in range(arguments.seeds)
    ]
    splits = [split for split, *_ in made]
    print_sizes(splits)
    methods = multi_methods(*made[0][1:])
    rows = compared(methods, splits, arguments.only)
    report(rows, {"table": arguments.table}, DIGITS, append=True)


def kept(arguments: argparse.Namespace, report: Report) -> None:
    digits = DIGITS | {"P3 later, ms": 0, "CPU seconds": 1}
    report(rows_of_kept(arguments), {"table": "kept"}, digits, append=True)


def rows_of_kept(arguments: argparse.Namespace) -> Iterator[Row]:
    """Brain signal that each way to denoise leaves, person by person."""
    recordings, splits = [], []
    for seed in range(arguments.seeds):
        split, topographies, names = multi_split(
            arguments.data, seed, False, arguments.most
        )
        splits.append(split)
        once = slice(None, None, N_REPEATS)
        pair = split.clean_test[once], split.noisy_test[once]
        recordings.append(_eeg_kept.partly_noisy(*pair, names, seed))
    frontal = [name for name in FRONTAL if name in names]

    @cache
    def learned(seed: int, little: bool = False) -> EEGDenoiser:
        noisy, clean, groups, *_ = splits[seed]
        sae = little_sae() if little else None
        denoiser = EEGDenoiser(sfreq=SFREQ, sae=sae, random_state=seed)
        return denoiser.fit(noisy, clean, groups=groups)

    methods: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "nothing": lambda X, seed: X,
        "zeros": lambda X, seed: np.zeros_like(X),
        "SSP, true topographies": lambda X, seed: baselines.projection(topographies)(X),
        **{
            name: lambda X, seed, clean_up=clean_up: clean_up(X, names, frontal, seed)
            for name, clean_up in _eeg_peers.PEERS.items()
        },
        "ours, with clean signals of others": (
            lambda X, seed: learned(seed, little=True).apply(X)
        ),
        "ours, with clean signals of others, transform": (
            lambda X, seed: learned(seed).transform(X)
        ),
    }
    for name in filter(partial(re.search, arguments.only), methods):
        print(name, file=sys.stderr)
        rows = []
        try:
            for seed, recording in enumerate(recordings):
                began = process_time()
                row = _eeg_kept.measure(
                    lambda X, seed=seed, name=name: methods[name](X, seed),
                    recording,
                    SFREQ,
                )
                # Three times cleaned.
                rows.append(row | {"CPU seconds": (process_time() - began) / 3})
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        yield over_seeds(name, rows)


def real(arguments: argparse.Namespace, report: Report) -> None:
    report(of_whole_recordings(arguments), {"table": "real"}, DIGITS, append=True)


def references(arguments: argparse.Namespace, report: Report) -> None:
    report(of_other_references(arguments), {"table": "references"}, DIGITS, append=True)


def added(arguments: argparse.Namespace, report: Report) -> None:
    report(rows_of_added(arguments), {"table": "added"}, DIGITS)


def print_sizes(splits: list[Split]) -> None:
    sizes = " / ".join(f"{len(s.noisy)}, {len(s.noisy_test)}" for s in splits)
    print(f"\nmixtures to train on, to test: {sizes}", flush=True)


def paper(arguments: argparse.Namespace, report: Report) -> None:
    report(of_unseen_people(arguments), {"table": "paper"}, {"seconds": 0})


def decode(arguments: argparse.Namespace, report: Report) -> None:
    report(decoded(arguments), {"table": "decode"})


def speed(arguments: argparse.Namespace, report: Report) -> None:
    """Time beside that of mne's filter, and memory."""
    folder = arguments.data / "eegmmidb"
    raw = _data.eegmmidb(sorted(folder.glob("*.edf")))
    raw.set_annotations(None)
    denoisers: dict[str, EEGDenoiser] = {}
    report(
        times(raw, arguments.minutes, denoisers),
        {"table": "speed-time"},
        {"fit, s": 0, "transform, s": 1, "mne's filter, s": 1, "ratio": 1},
    )
    report(
        memories(raw, arguments.hours, denoisers),
        {"table": "speed-memory"},
        {"in memory, GiB": 2, "private memory, GiB": 2, "seconds": 0},
    )


TABLES = {
    "single": single,
    "multi": multi,
    "muscles": multi,
    "kept": kept,
    "added": added,
    "real": real,
    "references": references,
    "paper": paper,
    "decode": decode,
    "speed": speed,
}


def main() -> None:
    parser = Command("eeg", __doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of the data"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="regex of names of rows to make")
    parser.add_argument("--artefacts", nargs="+", default=["EOG", "EMG"])
    parser.add_argument(
        "--microvolts",
        action="store_true",
        help="mixtures as they are, not divided by their standard deviation",
    )
    parser.add_argument("--most", type=int, help="clean epochs of a person, at most")
    parser.add_argument("--steps", type=int, default=1000, help="of table paper")
    parser.add_argument("--repeats", type=int, default=20, help="of table decode")
    parser.add_argument("--minutes", type=float, default=10, help="of table speed")
    parser.add_argument("--hours", type=float, default=2, help="of table speed")
    arguments, report = parser.parse()
    TABLES[arguments.table](arguments, report)


if __name__ == "__main__":
    main()
