"""Random numbers by purpose.

Every draw comes from a generator keyed by the seed, a purpose and counters, such as
(batches, epoch) or (initial atoms, member, attempt).  So there is no generator state to
save in a checkpoint, and neither the number of SAEs nor that of witnesses, nor the
device, changes what one SAE is given.
"""

import numpy as np

BATCHES, DONORS, INITIAL_ATOMS, VALIDATION, CHUNKS = range(5)


def random_numbers(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """Generator for one purpose, independent of those for any other."""
    return np.random.default_rng([seed, purpose, *key])
