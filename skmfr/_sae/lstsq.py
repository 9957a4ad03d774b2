"""Least squares on the support of other codes."""

from torch import Tensor

from .._kernels import backend
from .codes import BlockCoder, SparseCodes
from .encoder import encoder_coder
from .ensemble import Ensemble

# Squared distance of an atom to the span of others of its support up to which it is
# left out: nearly equal atoms, of a cosine above .99875, would get large coefficients
# of opposite signs, of which little but noise is left.
NEARLY_DEPENDENT = 0.0025


def lstsq_coder(
    sae: Ensemble,
    k: int | None,
    positive: bool = False,
    threshold: Tensor | None = None,
) -> BlockCoder:
    """Least squares on the support of the encoder's codes; signs are free or not."""
    by_encoder = encoder_coder(sae, k, threshold)
    return lambda X: refitted(by_encoder(X), X, sae, positive)


def refitted(
    codes: SparseCodes, X: Tensor, sae: Ensemble, positive: bool = False
) -> SparseCodes:
    """Least squares on the support of some codes of X.

    Atoms that nearly depend on others of the support get 0, and these their share.
    """
    # Which atom depends on others should not hang on the order of nearly equal codes.
    indices, place = codes.indices.sort(1)
    used = codes.values.gather(1, place) != 0
    values = backend(X.device).least_squares(
        X - sae.decoder_bias, sae.decoder[0], indices, used, NEARLY_DEPENDENT, positive
    )
    return SparseCodes(values, indices)
