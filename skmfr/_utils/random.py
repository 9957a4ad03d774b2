"""Random numbers by purpose.

Every draw comes from a generator keyed by the seed, a purpose and counters, such as
(batches, epoch) or (initial atoms, member, attempt).  A checkpoint therefore needs no
generator state, and the draws of one SAE are independent of the device and of the
numbers of SAEs and witnesses.
"""

import numpy as np

# A number is never reused, so that seeds keep their results.
BATCHES, INITIAL_ATOMS, VALIDATION, CHUNKS, PARTS = 0, 2, 3, 4, 5


def random_numbers(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """Generator for one purpose, independent of the generators for other purposes."""
    return np.random.default_rng([seed, purpose, *key])


def part_of(X: np.ndarray, seed: int, n_parts: int) -> np.ndarray:
    """The random part of all data that each row belongs to, according to its values.

    A row is therefore in the same part in another batch, order, file or call.  The
    parts have about the same size, unless some rows are very frequent.

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
    # 0.0 and -0.0 are equal, and become the same word.
    words = np.ascontiguousarray(X + 0.0).view(np.uint32).astype(np.uint64)
    draw = random_numbers(seed, PARTS)
    factors = draw.integers(2**64 - 1, size=words.shape[1], dtype=np.uint64)
    high_bits = (words @ factors) >> np.uint64(32)
    return (high_bits % np.uint64(n_parts)).astype(np.int64)
