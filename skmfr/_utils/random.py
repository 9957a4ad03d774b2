"""Random numbers by purpose.

Every draw comes from a generator keyed by the seed, a purpose and counters, such as
(batches, epoch) or (resampling, member, step).  So there is no generator state to save
in a checkpoint, and neither the number of SAEs nor that of witnesses, nor the device,
changes what one SAE is given.
"""

import numpy as np

BATCHES, DONORS, INITIAL_ATOMS, RESAMPLING, VALIDATION, CHUNKS, PARTS = range(7)


def random_numbers(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """Generator for one purpose, independent of those for any other."""
    return np.random.default_rng([seed, purpose, *key])


def part_of(X: np.ndarray, seed: int, n_parts: int) -> np.ndarray:
    """To which of so many random parts of all data each row belongs, by its values.

    So a row is in the same part wherever it comes again: in another batch, order, file
    or call.  The parts are about equal, but for rows that come often.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features), float32 or float64
    seed : int
    n_parts : int

    Returns
    -------
    ndarray of shape (n_rows,), int
        From a multilinear hash (Dietzfelbinger 1996).
    """
    words = np.ascontiguousarray(X).view(np.uint32).astype(np.uint64)
    draw = random_numbers(seed, PARTS)
    factors = draw.integers(2**64 - 1, size=words.shape[1], dtype=np.uint64)
    high_bits = (words @ factors) >> np.uint64(32)
    return (high_bits % np.uint64(n_parts)).astype(np.int64)
