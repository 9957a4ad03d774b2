"""Sparse autoencoders with mutual feature regularization, for scikit-learn."""

import random

# scikit-learn imports rich for its callbacks, and rich draws from Python's generator,
# which is the user's.
_state_of_random = random.getstate()
from ._estimator import MFRSparseAutoencoder  # noqa: E402
from ._pretrained import PretrainedSAE  # noqa: E402

random.setstate(_state_of_random)
del random, _state_of_random

__all__ = ["MFRSparseAutoencoder", "PretrainedSAE"]
__version__ = "0.2.0"
