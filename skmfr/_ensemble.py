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

# Pre-activations are made and searched in blocks of about this many numbers (32 MB in
# float32), and of no fewer rows than a matrix product takes to be fast.
BLOCK_SIZE = 1 << 23
BLOCK_ROWS = 1024
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

    def centred(self, X: Tensor) -> Tensor:
        """Samples less the decoder bias, (n_members, n_samples, n_features)."""
        return X - self.decoder_bias.unsqueeze(1)


def score_buffer(
    n_samples: int, ensemble: Ensemble, dtype: torch.dtype | None = None
) -> Tensor:
    """Room for the pre-activations of one block of samples, (n_rows, n_components).

    Fresh pages cost as much as the product that fills them: keep one for all steps.
    """
    n_rows = max(BLOCK_ROWS, BLOCK_SIZE // ensemble.n_components)
    return ensemble.decoder.new_empty(
        min(n_rows, n_samples * len(ensemble)), ensemble.n_components, dtype=dtype
    )


def encode(
    X_centred: Tensor, ensemble: Ensemble, k: int, buffer: Tensor | None = None
) -> SparseCodes:
    """TopK(ReLU(X_centred E^T + c), k).

    Parameters
    ----------
    X_centred : Tensor of shape (n_members, n_samples, n_features)
        Samples less the decoder bias.
    ensemble : Ensemble
    k : int
    buffer : Tensor from :func:`score_buffer`, optional
        In bfloat16, it screens for some more candidates, whose pre-activations are then
        computed again in full precision.

    Returns
    -------
    SparseCodes of shape (n_members * n_samples, k)
        Atoms numbered through the ensemble.
    """
    n_members, n_samples, n_features = X_centred.shape
    n_components = ensemble.n_components
    if buffer is None:
        buffer = score_buffer(n_samples, ensemble)
    screening = buffer.dtype != X_centred.dtype
    n_more = max(MORE_CANDIDATES, k // 4) if screening else 0
    width = min(k + n_more, n_components)
    X = X_centred.to(buffer.dtype).view(-1, n_features)
    encoder = ensemble.encoder.to(buffer.dtype)
    bias = ensemble.encoder_bias.to(buffer.dtype)

    blocks = []
    for start in range(0, len(X), len(buffer)):
        scores = buffer[: len(X) - start]
        # A block may hold several members, a member several blocks.
        for i in range(start // n_samples, (start + len(scores) - 1) // n_samples + 1):
            first = max(start, i * n_samples)
            last = min(start + len(scores), (i + 1) * n_samples)
            part = scores[first - start : last - start]
            if X.is_cuda:
                # cuBLAS adds the bias before it writes the product.
                torch.addmm(bias[i], X[first:last], encoder[i].T, out=part)
            else:
                # Not addmm, which would write the bias to all of the buffer first.
                torch.mm(X[first:last], encoder[i].T, out=part).add_(bias[i])
        blocks.append(top_k(scores, width))
    values, indices = blocks[0]
    if len(blocks) > 1:
        values, indices = (torch.cat(part) for part in zip(*blocks, strict=True))
    if n_members > 1:
        member = torch.arange(n_members, device=indices.device) * n_components
        indices = indices.view(n_members, n_samples, width) + member.view(-1, 1, 1)
        indices = indices.flatten(0, 1)
    if screening:
        scores = gather_dot(
            X_centred.flatten(0, 1), ensemble.encoder.flatten(0, 1), indices
        )
        scores += ensemble.encoder_bias.flatten()[indices]
        values, position = top_k(scores, k)
        indices = indices.gather(1, position)
    return SparseCodes(values, indices)
