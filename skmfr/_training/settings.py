"""Settings of a fit, derived from parameters and data."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch

from .._utils.devices import resolve_device
from .optimiser import ENCODER_RATE

# Default number of steps of a fit; more if one pass over the data needs more.
DEFAULT_STEPS = 2000
# Default maximum number of epochs: more of them fit single samples.
DEFAULT_EPOCHS = 500
# Default learning rate, times the fourth root of the number of features.
AUTO_LEARNING_RATE = 0.1
MAX_AUTO_COMPONENTS = 4096
# Parameters whose values can be written in several ways, such as "auto".
RESOLVED = (
    "n_components",
    "witness_rows",
    "k",
    "alpha",
    "tied",
    "learning_rate",
    "device",
)
# Number of rows for each atom below which witnesses see disjoint rows by default.
FEW_ROWS = 50


@dataclass(frozen=True)
class Settings:
    """Settings that the parameters of the estimator determine; immutable."""

    n_components: int
    n_saes: int
    n_witnesses: int
    witness_rows: str
    """"same" or "disjoint"; "same" for fewer than two witnesses"""
    k: int
    activation: str
    """"topk" or "batchtopk", in which samples of a batch share their active atoms"""
    alpha: float
    matching: str
    tied: bool
    learning_rate: float
    reinit_threshold: float | None
    reinit_every: int | None
    share_atoms: bool
    seed: int
    device: str
    dtype: torch.dtype
    low_precision: bool
    for_pursuit: bool
    """whether dictionaries are finished for codes of matching pursuit"""
    positive_code: bool
    """whether those codes are non-negative"""

    @property
    def n_members(self) -> int:
        """Number of SAEs in the group plus witnesses."""
        return self.n_saes + self.n_witnesses

    def member_key(self, i: int) -> tuple[int, int]:
        """Key of a member's random numbers, independent of the size of the group."""
        return (0, i) if i < self.n_saes else (1, i - self.n_saes)


def auto_learning_rate(n_features: int, tied: bool) -> float:
    """Default learning rate for data with this many features; tied atoms encode."""
    part = ENCODER_RATE if tied else 1.0
    return part * AUTO_LEARNING_RATE / n_features**0.25


def witness_rows_of(
    parameters: Mapping, n_rows: float, n_components: int, earlier: str | None
) -> str:
    """Rows that witnesses see: the same, or disjoint ones.

    By default those of the fit to continue. In a new fit to few rows, witnesses see
    disjoint ones, because SAEs that see the same few rows agree on their peculiarities.
    """
    if parameters["n_witnesses"] < 2:
        return "same"
    if parameters["witness_rows"] != "auto":
        return parameters["witness_rows"]
    if earlier is not None:
        return earlier
    return "disjoint" if n_rows < FEW_ROWS * n_components else "same"


def settings_of(
    parameters: Mapping,
    n_features: int,
    seed: int,
    n_rows: float,
    witness_rows: str | None,
) -> Settings:
    """Settings for data with so many features and rows.

    Parameters
    ----------
    parameters : mapping
        Checked parameters of the estimator.
    n_features, seed : int
    n_rows : float
        inf if more rows may follow in later calls.
    witness_rows : str, optional
        Rows that witnesses saw in the fit to continue.

    Raises
    ------
    ValueError
        If parameters contradict each other, or a number is too large for the precision.
    """
    every = parameters["checkpoint_every"]
    if every is not None and parameters["checkpoint_dir"] is None:
        raise ValueError(f"checkpoint_every={every} needs a checkpoint_dir, got None.")
    n_components = parameters["n_components"]
    if n_components is None:
        n_components = min(4 * n_features, MAX_AUTO_COMPONENTS)
    learning_rate = parameters["learning_rate"]
    if learning_rate == "auto":
        learning_rate = auto_learning_rate(n_features, parameters["tied"])
    precision = parameters["precision"]
    dtype = torch.float64 if precision == "float64" else torch.float32
    # The squares that Adam computes must not overflow.
    largest = torch.finfo(dtype).max ** 0.5
    for name, value in [
        ("alpha", parameters["alpha"]),
        ("learning_rate", learning_rate),
    ]:
        if float(value) > largest:
            raise ValueError(
                f"{name}={value:g} is too large for precision={precision!r}: it must "
                f"be at most {largest:g}."
            )
    same = "n_saes", "n_witnesses", "matching", "reinit_threshold", "reinit_every"
    return Settings(
        **{name: parameters[name] for name in same},
        n_components=n_components,
        witness_rows=witness_rows_of(parameters, n_rows, n_components, witness_rows),
        k=min(parameters["k"], n_components),
        activation=parameters["activation"],
        alpha=float(parameters["alpha"]),
        tied=bool(parameters["tied"]),
        share_atoms=bool(parameters["share_atoms"]),
        learning_rate=float(learning_rate),
        seed=seed,
        device=resolve_device(parameters["device"]),
        dtype=dtype,
        low_precision=precision == "bfloat16",
        for_pursuit=parameters["transform_algorithm"] == "omp",
        positive_code=bool(parameters["positive_code"]),
    )


def n_steps_of(parameters: Mapping, steps_per_epoch: float) -> int:
    """Length of a fit: max_iter epochs, and at most max_steps.

    If neither is given, the default number of steps, in at most the default number of
    epochs, but at least one epoch.
    """
    max_iter, max_steps = parameters["max_iter"], parameters["max_steps"]
    if max_iter is not None:
        # Up to rounding: 50 epochs of 2.2 steps are 110 steps.
        n_steps = ceil(max_iter * steps_per_epoch * (1 - 2 * np.finfo(float).eps))
        return n_steps if max_steps is None else min(n_steps, max_steps)
    if max_steps is not None:
        return max_steps
    n_steps = min(DEFAULT_STEPS, ceil(DEFAULT_EPOCHS * steps_per_epoch))
    return max(n_steps, ceil(steps_per_epoch))
