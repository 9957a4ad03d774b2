"""Codes of new data: encoder, least squares on its support, or matching pursuit.

All three are functions of one sample: where rounding, which in a matrix product depends
on the rest of the batch, could decide which atom enters, the scores are computed again
sample by sample, and equal ones go to the atom that comes first.  What matching pursuit
makes of the chosen atoms it computes in float64, since atoms that are nearly dependent
make much of any rounding.
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
# Norms of atoms this near to 1 are 1.
UNIT = 1e-5


class Coder:
    """Codes of samples by one SAE, and back: tensors in, tensors out.

    What an algorithm needs to know of the weights is made once.  Threads may share a
    coder: what it still makes at first use is the same if two make it.

    Parameters
    ----------
    sae : Ensemble of one member
        On the device, and in the dtype, of the samples to come.
    k : int, optional
        Clipped to the number of atoms. None is for thresholds, all that are above, and
        not for "omp".
    algorithm : {"encoder", "lstsq", "omp"}
    positive : bool
        Whether codes of the latter two are not negative; the encoder's never are.
    threshold : Tensor of shape (n_components,), optional
        What scores of the encoder must be above. None takes the k largest.
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

    @property
    def atoms(self) -> Tensor:
        """D, (n_components, n_features)."""
        return self.sae.decoder[0]

    @property
    def n_rows(self) -> int:
        """Samples to code at once, for intermediate arrays of bounded size."""
        n_components, n_features = self.atoms.shape
        device = self.atoms.device
        most = rows_per_block(n_components, device, self.atoms.dtype)
        return min(most, max(16, block_size(device) // n_features))

    # A model that calls it may run in autocast, which would take bfloat16 for products.
    @undisturbed()
    def __call__(self, X: Tensor) -> SparseCodes:
        """Codes of samples (n_samples, n_features), however many."""
        blocks = [self._codes_of_block(block) for block in X.split(self.n_rows)]
        return blocks[0] if len(blocks) == 1 else stacked(blocks)

    @undisturbed()
    def decode(self, codes: SparseCodes) -> Tensor:
        """z D + b, (n_samples, n_features)."""
        return decode(codes, self.atoms) + self.sae.decoder_bias

    def reconstruct(self, X: Tensor) -> Tensor:
        """Samples (n_samples, n_features), coded and decoded."""
        return self.decode(self(X))


def for_any_norms(coder_of: Callable[..., BlockCoder]) -> Callable[..., BlockCoder]:
    """What codes with atoms of unit norm, for those of other packages."""

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
