"""Codes of new data: encoder, least squares on its support, or matching pursuit.

The codes of a sample do not depend on other samples.  In a matrix product, rounding
depends on the rest of the batch. Where it could decide which atom enters, the scores
are computed again for each sample, and among equal scores the first atom wins. Matching
pursuit computes the coefficients of the chosen atoms in float64, because nearly
dependent atoms amplify rounding errors.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .._kernels.dense import block_size
from .._utils.ambient import undisturbed
from .codes import BlockCoder, SparseCodes, decode, stacked
from .encoder import encoder_coder, rows_per_block
from .ensemble import Ensemble
from .lstsq import lstsq_coder
from .pursuit import omp_coder

ALGORITHMS: dict[str, Callable[..., BlockCoder]] = {
    "encoder": lambda sae, k, positive=False, threshold=None: encoder_coder(
        sae, k, threshold
    ),
    "lstsq": lstsq_coder,
    "omp": lambda sae, k, positive=False, threshold=None: omp_coder(sae, k, positive),
}
# Norms this close to 1 count as 1.
UNIT = 1e-5


class Coder:
    """Codes and reconstructions of samples by one SAE, with tensors.

    Everything that an algorithm needs from the weights is prepared once.  Threads may
    share a coder: values that are computed at first use are the same if two threads
    compute them.

    Parameters
    ----------
    sae : Ensemble of one member
        On the device and in the dtype of the samples.
    k : int, optional
        Clipped to the number of atoms. None is allowed only with thresholds, where it
        keeps all scores above them, and not for "omp".
    algorithm : {"encoder", "lstsq", "omp"}
    positive : bool
        Whether codes of the last two are non-negative; the encoder's always are.
    threshold : Tensor of shape (n_components,), optional
        Thresholds that scores of the encoder must exceed. None takes the k largest.
    """

    def __init__(
        self,
        sae: Ensemble,
        k: int | None,
        algorithm: str,
        positive: bool = False,
        threshold: Tensor | None = None,
    ):
        self.sae = sae
        self.k = None if k is None else min(k, sae.n_components)
        coder_of = ALGORITHMS[algorithm]
        if algorithm != "encoder":
            coder_of = for_any_norms(coder_of)
        self._codes_of_block = coder_of(sae, self.k, positive, threshold)
        self.has_coded = False
        """whether it has been called, and has made what the first call makes"""

    @property
    def atoms(self) -> Tensor:
        """D, (n_components, n_features)."""
        return self.sae.decoder[0]

    @property
    def n_rows(self) -> int:
        """Number of samples to code at once, which bounds intermediate arrays."""
        n_components, n_features = self.atoms.shape
        device = self.atoms.device
        # Twice as many as in training: the scores overwrite those of the last block.
        most = 2 * rows_per_block(n_components, device, self.atoms.dtype)
        return min(most, max(16, block_size(device) // n_features))

    # A calling model may use autocast, in which products would be bfloat16.
    @undisturbed()
    def __call__(self, X: Tensor) -> SparseCodes:
        """Codes of samples (n_samples, n_features), for any number of samples."""
        blocks = [self._codes_of_block(block) for block in X.split(self.n_rows)]
        self.has_coded = True
        return blocks[0] if len(blocks) == 1 else stacked(blocks)

    @undisturbed()
    def decode(self, codes: SparseCodes) -> Tensor:
        """z D + b, (n_samples, n_features)."""
        return decode(codes, self.atoms) + self.sae.decoder_bias

    def reconstruct(self, X: Tensor) -> Tensor:
        """Code and decode samples (n_samples, n_features)."""
        return self.decode(self(X))


def for_any_norms(coder_of: Callable[..., BlockCoder]) -> Callable[..., BlockCoder]:
    """Wrap a coder for atoms of unit norm, so that it accepts atoms of any norm."""

    def wrapped(sae: Ensemble, *settings) -> BlockCoder:
        norms = torch.linalg.vector_norm(sae.decoder[0], dim=1)
        if ((norms - 1).abs() <= UNIT).all():
            return coder_of(sae, *settings)
        norms = torch.where(norms > 0, norms, 1.0)
        unit = replace(sae, decoder=sae.decoder / norms[:, None])
        coder = coder_of(unit, *settings)

        def of_these_norms(X: Tensor) -> SparseCodes:
            values, indices = coder(X)
            return SparseCodes(values / norms[indices], indices)

        return of_these_norms

    return wrapped
