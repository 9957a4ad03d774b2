"""Loss of a batch and its gradients, written out by hand.

The objective of a fit is::

    sum_i FVU_i + alpha * mean over pairs i < j of (1 - MMCS(D_i, D_j))

as a function of *normalised* atoms: of the gradients here, the part along an atom does
not count (:class:`.._optimiser.SphericalAdam`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._codes import (
    SparseCodes,
    bag_sums,
    bag_totals,
    by_atom,
    residual_products,
)
from ._ensemble import Ensemble
from ._matching import PullGraph


class Gradients(NamedTuple):
    """Gradients of the loss, shaped as an ensemble's parameters."""

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor

    @classmethod
    def like(cls, ensemble: Ensemble) -> "Gradients":
        """Room for those of an ensemble."""
        return cls(*(torch.empty_like(getattr(ensemble, name)) for name in cls._fields))

    def of(self, members: slice) -> "Gradients":
        """Views, of some members."""
        return Gradients(*(part[members] for part in self))


def reconstruction(
    X_centred: Tensor,
    codes: SparseCodes,
    ensemble: Ensemble,
    total_variance: float,
    out: Gradients | None = None,
) -> tuple[Tensor, Gradients]:
    """Fraction of variance unexplained on a batch, and its gradients.

    Parameters
    ----------
    X_centred : Tensor of shape (n_members, n_samples, n_features)
        Samples less the decoder bias.
    codes : SparseCodes of shape (n_members * n_samples, k)
        Their codes by this ensemble.
    ensemble : Ensemble
    total_variance : float
        Variance of the data, summed over features.
    out : Gradients, optional
        Where to write them.

    Returns
    -------
    fvu : Tensor of shape (n_members,)
        sum (x - x_hat)^2 / (n_samples * total_variance)
    gradients : Gradients
        Of the sum of these.  Not yet tangent to the sphere; with tied weights the
        encoder's and the decoder's are to be added.
    """
    if out is None:
        out = Gradients.like(ensemble)
    values, indices = codes
    n_members, n_samples, _ = X_centred.shape
    shape = ensemble.decoder.shape
    n_atoms = shape[0] * shape[1]
    X_centred = X_centred.flatten(0, 1)
    dictionary = ensemble.decoder.flatten(0, 1)

    residual, products = residual_products(X_centred, codes, dictionary)
    scale = n_samples * total_variance
    per_member = residual.view(n_members, -1)
    fvu = torch.linalg.vecdot(per_member, per_member) / scale

    # d fvu / d x_hat is -2 / scale * residual: the factor goes to the k codes of a
    # sample instead of its n_features residuals.
    factor = -2.0 / scale
    d_values = products.mul_(factor)
    d_values *= values > 0
    _, rows, offsets = entries = by_atom(indices, n_atoms)
    d_values, weights = entries.sort(d_values), entries.sort(values * factor)
    d_bias = bag_totals(d_values, offsets).view(shape[:2])
    out.encoder_bias.copy_(d_bias)
    bag_sums(X_centred, rows, offsets, d_values, out.encoder.flatten(0, 1))
    bag_sums(residual, rows, offsets, weights, out.decoder.flatten(0, 1))
    # x_hat holds b itself, and the encoder sees x - b.
    through_encoder = torch.bmm(d_bias.unsqueeze(1), ensemble.encoder).squeeze(1)
    torch.sub(
        residual.view(n_members, n_samples, -1).sum(1).mul_(factor),
        through_encoder,
        out=out.decoder_bias,
    )
    return fvu, out


def add_mutual_penalty_(
    gradient: Tensor,
    dictionaries: Tensor,
    pull: PullGraph,
    alpha: float,
    members: slice = slice(None),
) -> Tensor:
    """Add the gradient of alpha * (1 - mean MMCS over pairs), for fixed matches.

    Parameters
    ----------
    gradient : Tensor of shape (n_chosen, n_components, n_features)
        Of the dictionaries of the chosen SAEs, changed in place.
    dictionaries : Tensor of shape (n_saes, n_components, n_features)
    pull : PullGraph
        Symmetric weights W between all atoms: mean MMCS = 1/2 sum W_ab <D_a, D_b>, so
        that its gradient is W D.
    alpha : float
    members : slice
        The chosen SAEs.
    """
    n_saes, n_components, n_features = dictionaries.shape
    first, last, _ = members.indices(n_saes)
    edges = slice(pull.bounds[first], pull.bounds[last])
    atoms = slice(first * n_components, last * n_components + 1)
    bag_sums(
        dictionaries.flatten(0, 1),
        pull.partners[edges],
        pull.offsets[atoms] - edges.start,
        pull.weights[edges] * -alpha,
        out=gradient.view(-1, n_features),
        add=True,
    )
    return gradient
