"""Parameters of all SAEs of a fit, group and witnesses, stacked.

Sparse autoencoder i maps a sample x to codes and back::

    z = TopK(ReLU((x - b_i) E_i^T + c_i), k)        x_hat = z D_i + b_i

with atoms (rows of D_i) of unit norm.  The first members of an ensemble form the group
that the mutual penalty couples; the others are witnesses that it never touches.

Past the encoder's product the members of an ensemble are computed together, as one
large SAE: samples, codes and atoms are numbered through, member by member, so that the
row of sample s in member i is i * n_samples + s, and atom a is i * n_components + a.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._codes import SparseCodes, gather_dot, top_k
from ._dense import linear

# Candidates beside k, or a quarter of k.  Scores of bfloat16 are off by 1/256 at most:
# of random data, digits and superposed features no sample got other atoms with so many
# than with k more, and one in 300 with a quarter of k = 8 alone.
MORE_CANDIDATES = 8


@dataclass
class Ensemble:
    """Stacked parameters; a slice of an ensemble is an ensemble, of views."""

    encoder: Tensor
    """(n_members, n_components, n_features), E; the decoder itself with tied weights"""
    encoder_bias: Tensor
    """(n_members, n_components), c"""
    decoder: Tensor
    """(n_members, n_components, n_features), D, rows of unit norm"""
    decoder_bias: Tensor
    """(n_members, n_features), b"""

    @classmethod
    def starting_from(cls, atoms: Tensor, tied: bool) -> "Ensemble":
        """Encoder transposed, no biases; takes the atoms over, does not copy them."""
        return cls(
            encoder=atoms if tied else atoms.clone(),
            encoder_bias=atoms.new_zeros(atoms.shape[:2]),
            decoder=atoms,
            decoder_bias=atoms.new_zeros(len(atoms), atoms.shape[2]),
        )

    @property
    def tied(self) -> bool:
        return self.encoder is self.decoder

    @property
    def n_components(self) -> int:
        return self.decoder.shape[1]

    def __len__(self) -> int:
        return len(self.decoder)

    def __getitem__(self, members: slice) -> "Ensemble":
        decoder = self.decoder[members]
        return Ensemble(
            encoder=decoder if self.tied else self.encoder[members],
            encoder_bias=self.encoder_bias[members],
            decoder=decoder,
            decoder_bias=self.decoder_bias[members],
        )

    def only(self, atoms: Tensor) -> "Ensemble":
        """SAEs of these atoms (n_chosen,), copies."""
        decoder = self.decoder[:, atoms]
        return Ensemble(
            encoder=decoder if self.tied else self.encoder[:, atoms],
            encoder_bias=self.encoder_bias[:, atoms],
            decoder=decoder,
            decoder_bias=self.decoder_bias,
        )

    def centred(self, X: Tensor) -> Tensor:
        """Samples less the decoder bias, (n_members, n_samples, n_features)."""
        return X - self.decoder_bias.unsqueeze(1)


def rows_per_block(n_components: int, device: torch.device, dtype: torch.dtype) -> int:
    """Samples whose pre-activations are made, and searched, at once."""
    if device.type == "cpu":
        # They stay in the last cache, and in memory that is had again without fresh
        # pages, which cost as much as the product.  Of fewer rows a product is slower,
        # and of a number that is no power of two.
        n_rows = (1 << 23) // (n_components * dtype.itemsize)
        return max(256, 1 << n_rows.bit_length() >> 1)
    return max(1024, (1 << 23) // n_components)


def encode(
    X_centred: Tensor, ensemble: Ensemble, k: int, low_precision: bool = False
) -> SparseCodes:
    """TopK(ReLU(X_centred E^T + c), k).

    Parameters
    ----------
    X_centred : Tensor of shape (n_members, n_samples, n_features)
        Samples less the decoder bias.
    ensemble : Ensemble
    k : int
    low_precision : bool
        Whether bfloat16 screens for some more candidates, whose pre-activations are
        then computed again in full precision.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, k)
        Atoms numbered through the ensemble.
    """
    n_members, n_samples, _ = X_centred.shape
    n_components = ensemble.n_components
    dtype = torch.bfloat16 if low_precision else X_centred.dtype
    n_more = max(MORE_CANDIDATES, k // 4) if low_precision else 0
    width = min(k + n_more, n_components)
    X, encoder, bias = (
        part.to(dtype) for part in (X_centred, ensemble.encoder, ensemble.encoder_bias)
    )
    n_rows = rows_per_block(n_components, X.device, dtype)
    blocks = [
        (block, encoder[i], bias[i])
        for i in range(n_members)
        for block in X[i].split(n_rows)
    ]
    # Small members are searched together.
    n_together = max(1, n_rows // n_samples)
    found = []
    for first in range(0, len(blocks), n_together):
        parts = [linear(*block) for block in blocks[first : first + n_together]]
        found.append(top_k(torch.cat(parts) if len(parts) > 1 else parts[0], width))
    values, indices = (torch.cat(part) for part in zip(*found, strict=True))
    if n_members > 1:
        member = torch.arange(n_members, device=indices.device) * n_components
        indices = indices.view(n_members, n_samples, width) + member.view(-1, 1, 1)
        indices = indices.flatten(0, 1)
    if low_precision:
        scores = gather_dot(
            X_centred.flatten(0, 1), ensemble.encoder.flatten(0, 1), indices
        )
        scores += ensemble.encoder_bias.flatten()[indices]
        values, position = top_k(scores, k)
        indices = indices.gather(1, position)
    return SparseCodes(values, indices)
