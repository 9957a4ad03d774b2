"""Codes of new data: encoder, least squares on its support, or matching pursuit.

All three are functions of one sample: where rounding, which in a matrix product depends
on the rest of the batch, could decide which atom enters, the scores are computed again
sample by sample, and equal ones go to the atom that comes first.  What matching pursuit
makes of the chosen atoms it computes in float64, since atoms that are nearly dependent
make much of any rounding.
"""

from collections.abc import Callable

from torch import Tensor

from .codes import SparseCodes, decode
from .encoder import encoder_coder, rows_per_block
from .ensemble import Ensemble
from .lstsq import lstsq_coder, n_rows_with_atoms
from .pursuit import omp_coder
from .selection import Coder, block_size


def n_rows_per_block(algorithm: str, sae: Ensemble, k: int) -> int:
    """Samples to code at once, for intermediate arrays of bounded size."""
    n_components, n_features = sae.decoder.shape[1:]
    device = sae.decoder.device
    if algorithm == "encoder":
        most = rows_per_block(n_components, device, sae.decoder.dtype)
        return min(most, max(16, block_size(device) // n_features))
    return n_rows_with_atoms(sae, k)


ALGORITHMS: dict[str, Callable[[Ensemble, int], Coder]] = {
    "encoder": encoder_coder,
    "lstsq": lstsq_coder,
    "omp": omp_coder,
}


def reconstruct(codes: SparseCodes, sae: Ensemble) -> Tensor:
    """z D + b, (n_samples, n_features)."""
    return decode(codes, sae.decoder[0]) + sae.decoder_bias
