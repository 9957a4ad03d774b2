"""The atoms of several SAEs, nearest to one another: two in memory at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import combinations
from os import PathLike, fspath
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils._param_validation import validate_params
from sklearn.utils.validation import check_is_fitted

from .._sae import levels
from .._sae.cosines import nearest_both_ways
from .._sae.reappearance import TAU, reappearance
from .._utils.checks import Device, as_array, unit_atoms
from .._utils.extras import needed_by
from .._utils.pipelines import original_directions, split_pipeline

if TYPE_CHECKING:
    import pandas as pd

# Rows that are made unit vectors at once.
ROWS = 4096
# Size of the product that is timed to estimate how long a comparison takes.
MEASURED_ROWS, MEASURED_COLUMNS = 256, 4096
# Cosine of each atom with the nearest atom of another SAE, and the index of that atom.
NearestAtoms = tuple[np.ndarray, np.ndarray]


def named_saes(saes) -> dict[str, object]:
    """SAEs by name, or by their number.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    one = isinstance(saes, (str, PathLike)) or hasattr(type(saes), "fit")
    if one or hasattr(saes, "components_"):
        raise ValueError(f"saes must hold at least 2 SAEs, got one: {saes!r}.")
    if not isinstance(saes, Mapping):
        saes = {str(i): sae for i, sae in enumerate(saes)}
    if len(saes) < 2:
        raise ValueError(f"saes must hold at least 2 SAEs, got {len(saes)}.")
    return dict(saes)


def nearest_of_each_pair(
    saes: Mapping[str, object], device, verbose
) -> tuple[dict[str, tuple[int, int]], dict[tuple[str, str], NearestAtoms]]:
    """How near the atoms of each SAE come to those of each other.

    Returns
    -------
    shapes : dict from str
        Numbers of atoms, and of features.
    nearest : dict from (str, str)
        Of the atoms of the first, in the second.
    """
    from .._utils.devices import resolve_device

    device = resolve_device(device)
    (shapes, dtype), names, nearest = _layouts(saes), list(saes), {}
    with Progress(shapes, device, verbose) as progress:
        for i, one in enumerate(names[:-1]):
            atoms = _directions(saes[one], one, dtype)
            for other in names[i + 1 :]:
                nearest[one, other], nearest[other, one] = nearest_both_ways(
                    atoms,
                    _directions(saes[other], other, dtype),
                    device,
                    progress.of(other),
                )
    return shapes, nearest


def _atoms_of(sae, name: str):
    """Atoms of an estimator or pipeline, of a file or folder, or these themselves."""
    if isinstance(sae, (str, PathLike)):
        from ..io._opening import open_sae

        sae = open_sae(fspath(sae))
    # Of the type, because data frames may have columns of any name.
    if not hasattr(type(sae), "fit"):
        return getattr(sae, "components_", sae)
    before, sae = split_pipeline(sae)
    check_is_fitted(sae)
    if not hasattr(sae, "components_"):
        raise TypeError(
            f"saes[{name!r}] is of type {type(sae).__name__}, which has no atoms."
        )
    return original_directions(before, sae.components_)


def _layouts(named: Mapping) -> tuple[dict[str, tuple[int, int]], type]:
    """Numbers of atoms and features, found to be comparable, and a common precision."""
    shapes: dict[str, tuple[int, int]] = {}
    dtypes = set()
    for name, sae in named.items():
        atoms = _atoms_of(sae, name)
        shape = np.shape(atoms)
        width = next(iter(shapes.values()))[1] if shapes else shape[-1:]
        if len(shape) != 2 or 0 in shape or (shapes and shape[1] != width):
            wanted = f"(n_atoms, {width})" if shapes else "(n_atoms, n_features)"
            raise ValueError(f"saes[{name!r}] has shape {shape}, expected {wanted}.")
        shapes[name] = shape
        # Tensors have dtypes that NumPy does not know.
        dtypes.add(np.dtype(getattr(as_array(atoms[:1]), "dtype", np.float64)))
    # Atoms in float32 gain nothing from cosines in float64.
    return shapes, np.float64 if dtypes == {np.dtype(np.float64)} else np.float32


def _directions(sae, name: str, dtype: type) -> np.ndarray:
    """Atoms of unit norm, made block by block: dictionaries may be gigabytes."""
    atoms = _atoms_of(sae, name)
    if not hasattr(atoms, "dtype"):
        atoms = np.asarray(atoms, dtype=np.float64)
    directions = np.empty(atoms.shape, dtype)
    for start in range(0, len(atoms), ROWS):
        block = slice(start, start + ROWS)
        directions[block] = unit_atoms(atoms[block], f"saes[{name!r}]")
    return directions


class Progress:
    """Estimates the time that a comparison takes, and shows its progress."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], device: str, verbose):
        self.shapes, self.device, self.verbose = shapes, device, verbose

    def __enter__(self) -> Progress:
        from tqdm.auto import tqdm

        pairs = combinations(self.shapes.values(), 2)
        n_cosines = sum(one[0] * other[0] for one, other in pairs)
        if self.verbose:
            sizes = ", ".join(f"{n:,}" for n, _ in self.shapes.values())
            print(
                f"Comparing {len(self.shapes)} SAEs of {sizes} atoms: about "
                f"{_duration(n_cosines * self.seconds_per_cosine())} on "
                f"{self.device}.",
                file=sys.stderr,
                flush=True,
            )
        self.bar = tqdm(
            total=n_cosines,
            unit=" cosines",
            unit_scale=True,
            mininterval=1,
            disable=not self.verbose,
        )
        return self

    def seconds_per_cosine(self) -> float:
        """Measured on some atoms like these."""
        n_features = next(iter(self.shapes.values()))[1]
        size = min(MEASURED_COLUMNS, *(n for n, _ in self.shapes.values()))
        atoms = np.random.default_rng(0).standard_normal((size, n_features))
        atoms = atoms.astype(np.float32)
        rows = atoms[:MEASURED_ROWS]
        # The first call is a warm-up.
        nearest_both_ways(rows, atoms, self.device)
        began = perf_counter()
        nearest_both_ways(rows, atoms, self.device)
        return (perf_counter() - began) / (len(rows) * size)

    def of(self, other: str) -> Callable[[int], object]:
        """A counter of blocks of atoms that are compared with one SAE."""
        return lambda n_atoms: self.bar.update(n_atoms * self.shapes[other][0])

    def __exit__(self, *error) -> None:
        self.bar.close()


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


@validate_params(
    {"device": [Device()], "verbose": ["verbose"]}, prefer_skip_nested_validation=True
)
def compare(saes, *, device="auto", verbose=1) -> pd.DataFrame:
    r"""Compare the atoms of SAEs that were trained on the same activations.

    For atom j of SAE i, and the n other SAEs, with :math:`\tau_l` the level of trust
    against SAE l (three quarters of the way from :func:`random_agreement` to 1),

    .. math:: a_j = \frac1n \sum_{l \ne i} \max_m \cos(d^{(i)}_j, d^{(l)}_m),
              \quad f_j = \frac1n \bigl| \{ l \ne i :
              \max_m \cos(d^{(i)}_j, d^{(l)}_m) > \tau_l \} \bigr|:

    the *agreement*, and the share of the other SAEs in which the atom is *found*. Of
    three SAEs or more that were trained independently, such as with other seeds, the
    *reappearance* of an atom is the probability that one more has it at a cosine of .8
    or more. It is calibrated as in :func:`reappearance`, with the other SAEs in the
    place of witnesses.

    Parameters
    ----------
    saes : sequence or mapping from str
        2 or more of: fitted estimators; pipelines that end with one, whose atoms are
        compared as directions of the data that enter them if the steps before have
        `inverse_transform`; arrays or tensors of atoms (n_atoms, n_features); folders
        and files that :mod:`skmfr.io` reads. Two of these are in memory at a time. The
        numbers of atoms may differ. Without a mapping they are called "0", "1", ...
    device : str or torch.device, default="auto"
        Where to compute, as in :class:`~skmfr.MFRSparseAutoencoder`.
    verbose : int, default=1
        1 says on stderr how long it will take, from a product that it measures, and
        shows a bar; 0 is silent.

    Returns
    -------
    DataFrame
        A row for each atom, index "sae" and "atom"; columns "agreement", "found",
        "reappearance" (NaN for two SAEs), "trusted" (whether the agreement is above the
        mean of the levels of trust); for each SAE of some name "cosine NAME" and
        "atom NAME", where it comes nearest to having the atom (NaN and -1 for itself).
        ``attrs`` has the means of the null levels and of the levels of trust by SAE,
        "null" and "level".

    Raises
    ------
    ValueError
        If there are fewer than 2 SAEs, their numbers of features differ, or one is not
        as described.
    NotFittedError
        If an estimator is not fitted.
    TypeError
        If an estimator has no atoms.
    ImportError
        If pandas is not installed.

    See Also
    --------
    feature_agreement : Of one dictionary, in memory.
    skmfr.inspection.ComparisonDisplay : Draws it.

    Notes
    -----
    The levels of trust are those of directions on the sphere, since dictionaries do not
    tell how the data vary. Atoms that lie in a few of many dimensions exceed them by
    chance; `trusted_` of an estimator takes the covariance of its data into account.

    Cosines are made in blocks, once for both directions, in float32 unless dictionaries
    are float64. Two dictionaries of 131,072 atoms and 2,304 features take 8 GB of
    memory, with what it takes to read them.

    Examples
    --------
    >>> from skmfr.agreement import compare
    >>> D = [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    >>> frame = compare({"first": D, "second": D[:2]}, verbose=0)
    >>> frame.loc["first", "agreement"].tolist()
    [1.0, 1.0, 0.0]
    >>> frame.loc["first", "atom second"].tolist()
    [0, 1, 0]
    """
    with needed_by("compare", "activations"):
        import pandas as pd
    named = named_saes(saes)
    shapes, nearest = nearest_of_each_pair(named, device, verbose)
    n_features = next(iter(shapes.values()))[1]
    nulls = {
        name: levels.random_agreement(n_features, n_atoms)
        for name, (n_atoms, _) in shapes.items()
    }
    number = {name: i for i, name in enumerate(named)}
    by_number = {
        (number[one], number[other]): cosine
        for (one, other), (cosine, _) in nearest.items()
    }
    frames = {}
    attrs: dict[str, dict[str, float]] = {"null": {}, "level": {}}
    for name, (n_atoms, _) in shapes.items():
        others = [other for other in named if other != name]
        cosines = np.stack([nearest[name, other][0] for other in others])
        null = np.mean([nulls[other] for other in others])
        level = np.array(
            [levels.agreement_level(nulls[other], levels.TRUSTED) for other in others]
        )
        attrs["null"][name], attrs["level"][name] = float(null), float(level.mean())
        agreement = cosines.mean(0)
        probability = np.full(n_atoms, np.nan)
        if len(named) > 2:
            itself, witnesses = number[name], [number[other] for other in others]
            probability, _ = reappearance(by_number, itself, [itself], witnesses, TAU)
        columns = {
            "agreement": agreement,
            "found": (cosines > level[:, None]).mean(0),
            "reappearance": probability.astype(cosines.dtype),
            "trusted": agreement > level.mean(),
        }
        nowhere = np.full(n_atoms, np.nan, cosines.dtype), np.full(n_atoms, -1)
        for other in named:
            cosine, index = nearest.get((name, other), nowhere)
            columns |= {f"cosine {other}": cosine, f"atom {other}": index}
        frames[name] = pd.DataFrame(columns).rename_axis("atom")
    frame = pd.concat(frames, names=["sae"])
    frame.attrs.update(attrs)
    return frame
