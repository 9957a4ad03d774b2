"""Least squares on the support of other codes."""

from torch import Tensor

from .._kernels import backend
from .codes import BlockCoder, SparseCodes
from .encoder import encoder_coder
from .ensemble import Ensemble

# An atom is left out if its squared distance to the span of other atoms of its support
# is at most this.  Nearly equal atoms, with a cosine above .99875, would get large
# coefficients of opposite signs, whose sum is mostly noise.
NEARLY_DEPENDENT = 0.0025


def lstsq_coder(
    sae: Ensemble,
    k: int | None,
    positive: bool = False,
    threshold: Tensor | None = None,
) -> BlockCoder:
    """Least squares on the support of the encoder's codes, signed or non-negative."""
    by_encoder = encoder_coder(sae, k, threshold)
    return lambda X: refitted(by_encoder(X), X, sae, positive)


def refitted(
    codes: SparseCodes, X: Tensor, sae: Ensemble, positive: bool
) -> SparseCodes:
    """Least squares on the support of some codes of X.

    Atoms that nearly depend on others of the support get 0; the others take their
    share.
    """
    # Sort atoms, so that the result does not depend on the order of nearly equal codes.
    indices, place = codes.indices.sort(1)
    used = codes.values.gather(1, place) != 0
    values = backend(X.device).least_squares(
        X - sae.decoder_bias, sae.decoder[0], indices, used, NEARLY_DEPENDENT, positive
    )
    return SparseCodes(values, indices)
