"""Sparse autoencoders with mutual feature regularization, as scikit-learn estimators."""

from ._estimator import MFRSparseAutoencoder

__all__ = ["MFRSparseAutoencoder"]
__version__ = "0.1.0"
