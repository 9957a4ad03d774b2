"""Random numbers by purpose.

Every draw comes from a generator keyed by the seed, a purpose and counters, such as
(batches, epoch) or (initial atoms, member, attempt).  A checkpoint therefore needs no
generator state, and the draws of one SAE are independent of the device and of the
numbers of SAEs and witnesses.
"""

import numpy as np

BATCHES, DONORS, INITIAL_ATOMS, VALIDATION, CHUNKS = range(5)


def random_numbers(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """Generator for one purpose, independent of the generators for other purposes."""
    return np.random.default_rng([seed, purpose, *key])
