"""Sparse autoencoders with mutual feature regularization, for scikit-learn."""

from ._estimator import MFRSparseAutoencoder

__all__ = ["MFRSparseAutoencoder"]
__version__ = "0.1.0"
