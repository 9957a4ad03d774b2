"""Coding and reconstruction, for all sparse autoencoders that have weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_array
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from ._data.checked import checked_data
from ._data.moments import fvu_of_blocks
from ._utils.checks import as_array, check_weights, float_dtypes, validate_parameters
from ._utils.documentation import DocumentationLinkMixin
from ._utils.pickles import VersionedPickleMixin

if TYPE_CHECKING:
    import numpy as np

    from ._sae.module import SparseAutoencoderModule


class BaseSparseAutoencoder(
    VersionedPickleMixin,
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """A sparse autoencoder with weights, trained here or elsewhere.

    Subclasses provide the weights and biases (`encoder_weights_`, `encoder_bias_`,
    `components_`, `decoder_bias_`; optionally `threshold_`), `trusted_`, and the
    parameters that coding needs.
    """

    threshold_: np.ndarray | None = None

    def transform(self, X):
        """Code samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that `fit` accepts.

        Returns
        -------
        codes : ndarray or CSR array of shape (n_samples, n_components)
            At most k entries of a row are nonzero, or 2 k with
            ``activation="batchtopk"``. With ``transform_algorithm="encoder"`` or
            ``positive_code=True``, no entry is negative. float32 for float32 and
            float16 data, float64 otherwise.

        Raises
        ------
        NotFittedError
            If there are no weights.
        ValueError
            If X is not numeric, not finite, or not as wide as the training data.
        """
        from ._sae.arrays import coder_of, csr_codes, dense_codes

        X = checked_data(self, X)
        validate_parameters(self, "sparse_output")
        codes_of = csr_codes if self.sparse_output else dense_codes
        return codes_of(coder_of(self, X), X)

    def inverse_transform(self, X):
        """Reconstruct samples from codes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            ``X @ components_ + decoder_bias_``.

        Raises
        ------
        NotFittedError
            If there are no weights.
        ValueError
            If X is not numeric or not finite, or has not one column for each atom.
        """
        check_is_fitted(self)
        X = as_array(X)
        codes = check_array(
            X, accept_sparse="csr", dtype=float_dtypes(X), input_name="X"
        )
        if codes.shape[1] != len(self.components_):
            raise ValueError(
                f"X has {codes.shape[1]} columns, but there are n_components="
                f"{len(self.components_)} atoms: inverse_transform takes codes."
            )
        atoms = self.components_.astype(codes.dtype, copy=False)
        return codes @ atoms + self.decoder_bias_.astype(codes.dtype, copy=False)

    def reconstruct(self, X, trusted_only=False):
        """Code samples and reconstruct them.

        Equivalent to ``inverse_transform(transform(X))``, but never stores dense codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that `fit` accepts.
        trusted_only : bool, default=False
            Whether to leave out the atoms that are not `trusted_`.

        Returns
        -------
        X_hat : ndarray of shape (n_samples, n_features)
            Reconstructed data.

        Raises
        ------
        NotFittedError
            If there are no weights.
        ValueError
            If X is not numeric, not finite, or not as wide as the training data.
        """
        from ._sae.arrays import coder_of, reconstruct

        validate_parameter_constraints(
            {"trusted_only": ["boolean"]}, {"trusted_only": trusted_only}, "reconstruct"
        )
        X = checked_data(self, X)
        kept = self.trusted_ if trusted_only else None
        return reconstruct(coder_of(self, X), X, kept)

    def score(self, X, y=None, sample_weight=None):
        """Compute the share of the variance of X that its reconstruction explains.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that `fit` accepts.
        y : Ignored
            Not used, present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the samples. None weights all samples equally.

        Returns
        -------
        score : float
            1 - FVU with the current `transform_algorithm`. It equals ``r2_score(X,
            reconstruct(X), sample_weight, multioutput="variance_weighted")``, and is at
            most 1.

        Raises
        ------
        NotFittedError
            If there are no weights.
        ValueError
            If X is not numeric, not finite, or not as wide as the training data.
        """
        from ._sae.arrays import coder_of, reconstructed_blocks

        X = checked_data(self, X)
        weights = None
        if sample_weight is not None:
            weights = check_weights(sample_weight, len(X))
        return 1.0 - fvu_of_blocks(reconstructed_blocks(coder_of(self, X), X), weights)

    def to_torch(self, *, error_term=False) -> SparseAutoencoderModule:
        """Make a PyTorch module that codes with the encoder.

        Its codes equal those of `transform` with ``transform_algorithm="encoder"``, up
        to rounding and ties. Gradients pass through them to the input and to the
        weights, which are copies. See :doc:`inside PyTorch </user_guide/others>`.

        Parameters
        ----------
        error_term : bool, default=False
            Whether to add the residual that the codes leave to reconstructions, as a
            constant. The module then returns its input, and only a change of the codes,
            or a gradient, makes a difference.

        Returns
        -------
        module : torch.nn.Module
            Module with the methods ``encode(x)``, ``decode(codes)`` and ``forward(x)``,
            for tensors (..., n_features) and (..., n_components). Codes and error pass
            through the submodules ``codes`` and ``error``, which you can hook. The
            parameters are ``encoder``, ``encoder_bias``, ``decoder`` and
            ``decoder_bias``. ``to`` moves the module to any device and dtype.

        Raises
        ------
        NotFittedError
            If there are no weights.
        ValueError
            If the SAE has neither `k` nor thresholds.
        """
        from ._sae.module import module_of

        check_is_fitted(self)
        validate_parameters(self, "k")
        validate_parameter_constraints(
            {"error_term": ["boolean"]}, {"error_term": error_term}, "to_torch"
        )
        return module_of(self, error_term)

    @property
    def _selection(self):
        """k and thresholds by which the encoder selects atoms.

        It takes at most k of the scores above the thresholds, all of them if k is None,
        and the k largest without thresholds.
        """
        return self.k, self.threshold_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
