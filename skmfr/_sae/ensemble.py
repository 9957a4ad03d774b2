"""Parameters of all SAEs of a fit, group and witnesses, stacked.

Sparse autoencoder i maps a sample x to codes and back::

    z = TopK(ReLU((x - b_i) E_i^T + c_i), k)        x_hat = z D_i + b_i

with atoms (rows of D_i) of unit norm.  The first members of an ensemble form the group,
which the mutual penalty couples; the others are witnesses, which it never affects.

After the encoder's product, the members of an ensemble are computed together as one
large SAE.  Samples, codes and atoms are numbered member by member: the row of sample s
in member i is i * n_samples + s, and atom a is i * n_components + a.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Ensemble:
    """Stacked parameters; a slice of an ensemble is an ensemble of views."""

    encoder: Tensor
    """(n_members, n_components, n_features), E; the decoder itself if tied"""
    encoder_bias: Tensor
    """(n_members, n_components), c"""
    decoder: Tensor
    """(n_members, n_components, n_features), D, rows of unit norm"""
    decoder_bias: Tensor
    """(n_members, n_features), b"""

    @classmethod
    def starting_from(cls, atoms: Tensor, tied: bool) -> "Ensemble":
        """Start the encoder as the atoms, which are not copied, and biases as 0."""
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
        """Copies with only these atoms (n_chosen,); the decoder bias is shared."""
        decoder = self.decoder[:, atoms]
        return Ensemble(
            encoder=decoder if self.tied else self.encoder[:, atoms],
            encoder_bias=self.encoder_bias[:, atoms],
            decoder=decoder,
            decoder_bias=self.decoder_bias,
        )

    def centred(self, X: Tensor) -> Tensor:
        """Samples minus the decoder bias, (n_members, n_samples, n_features)."""
        return X - self.decoder_bias.unsqueeze(1)
