"""Loss of a batch and its gradients, written out by hand.

The objective of a fit is::

    sum_i (FVU_i (1 + penalty / 2 * |E_i|^2) + AuxK_i
           - push * sum of biases c of dead atoms of i)
        + alpha * mean over pairs i < j of (1 - C(D_i, D_j))

as a function of *normalised* atoms: the component of the gradients along an atom is
irrelevant (:class:`.optimiser.SphericalAdam`).  FVU is held fixed where it multiplies
the norm of the encoder; tied weights have no such penalty.  C is the mean cosine of
matched atoms.  Marks et al. (2024) call it MMCS, which is a different mean in
:mod:`skmfr.agreement`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .._kernels import backend
from .._sae.codes import AtomMajor, SparseCodes, bag_sums, bag_totals, by_atom
from .._sae.encoder import encode
from .._sae.ensemble import Ensemble
from .matches import PullGraph

# Number of dead atoms that code the residual of a sample.
AUXILIARY_K = 4
# Weight of the encoder biases of dead atoms, which rise until the atoms are active.
PUSH = 3e-5


class Gradients(NamedTuple):
    """Gradients of the loss, shaped as an ensemble's parameters."""

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor

    @classmethod
    def like(cls, ensemble: Ensemble) -> "Gradients":
        """Allocate gradients for an ensemble."""
        return cls(*(torch.empty_like(getattr(ensemble, name)) for name in cls._fields))

    def of(self, members: slice) -> "Gradients":
        """Views of the gradients of some members."""
        return Gradients(*(part[members] for part in self))


class Backward(NamedTuple):
    """Residuals of codes, and the way back to gradients of parameters.

    The loss is sum (target - codes D)^2 / scale.
    """

    residual: Tensor
    """(n_members * n_samples, n_features), target - codes D"""
    entries: AtomMajor
    d_codes: Tensor
    """(n_entries,), derivatives for the active codes, sorted by atom"""
    weights: Tensor
    """(n_members * n_samples, k), factors of the residual in derivatives for atoms"""

    @classmethod
    def of(
        cls, codes: SparseCodes, target: Tensor, ensemble: Ensemble, scale: float
    ) -> "Backward":
        """From codes (n_members * n_samples, k) of targets with as many rows."""
        residual, products = backend(target.device).residual_products(
            target, *codes, ensemble.decoder.flatten(0, 1)
        )
        # The derivative for x_hat is -2 / scale * residual. The factor multiplies the k
        # codes of a sample instead of its n_features residuals.
        factor = -2.0 / scale
        d_codes = products.mul_(factor)
        d_codes *= codes.values > 0
        entries = by_atom(codes.indices, ensemble.encoder_bias.numel())
        return cls(residual, entries, entries.sort(d_codes), codes.values * factor)

    def d_encoder_bias(self) -> Tensor:
        """Derivatives for encoder biases, (n_members * n_components,)."""
        return bag_totals(self.d_codes, self.entries.offsets)

    def to_encoder_(self, out: Gradients, X_centred: Tensor) -> None:
        """Write derivatives for encoders and biases; X_centred are coded samples."""
        _, rows, offsets = self.entries
        out.encoder_bias.copy_(self.d_encoder_bias().view_as(out.encoder_bias))
        bag_sums(
            X_centred.flatten(0, 1),
            rows,
            offsets,
            self.d_codes,
            out.encoder.flatten(0, 1),
        )

    def to_decoder_(self, out: Gradients) -> None:
        """Write derivatives for decoders."""
        _, rows, offsets = self.entries
        weights = self.entries.sort(self.weights)
        bag_sums(self.residual, rows, offsets, weights, out.decoder.flatten(0, 1))


def reconstruction_(
    gradients: Gradients,
    X_centred: Tensor,
    codes: SparseCodes,
    ensemble: Ensemble,
    total_variance: float,
) -> tuple[Tensor, Tensor]:
    """Fraction of variance unexplained on a batch, and its gradients.

    Parameters
    ----------
    gradients : Gradients
        Set to the gradients of the sum of FVU over members.  They are not yet tangent
        to the sphere. With tied weights, add the encoder's and the decoder's.
    X_centred : Tensor of shape (n_members, n_samples, n_features)
        Samples minus the decoder bias.
    codes : SparseCodes of shape (n_members * n_samples, k)
        Their codes by this ensemble.
    ensemble : Ensemble
    total_variance : float
        Variance of the data, summed over features.

    Returns
    -------
    fvu : Tensor of shape (n_members,)
        sum (x - x_hat)^2 / (n_samples * total_variance)
    residual : Tensor of shape (n_members * n_samples, n_features)
        x - x_hat
    """
    scale = X_centred.shape[1] * total_variance
    back = Backward.of(codes, X_centred.flatten(0, 1), ensemble, scale)
    back.to_encoder_(gradients, X_centred)
    back.to_decoder_(gradients)
    _to_decoder_bias_(gradients, back, gradients.encoder_bias, ensemble, scale)
    return _fvu(back.residual, len(ensemble), scale), back.residual


def pursuit_reconstruction_(
    gradients: Gradients,
    X_centred: Tensor,
    codes: SparseCodes,
    pursued: SparseCodes,
    ensemble: Ensemble,
    total_variance: float,
) -> Tensor:
    """FVU by matching pursuit for decoders, while encoders follow their own codes.

    Parameters
    ----------
    gradients : Gradients
        Set to the gradients of :func:`reconstruction_`: for encoders with the encoder's
        codes, for decoders with those of matching pursuit.
    X_centred : Tensor of shape (n_members, n_samples, n_features)
    codes, pursued : SparseCodes of shape (n_members * n_samples, k)
        Codes by the encoder, and by matching pursuit.
    ensemble : Ensemble
    total_variance : float

    Returns
    -------
    Tensor of shape (n_members,)
    """
    scale = X_centred.shape[1] * total_variance
    target = X_centred.flatten(0, 1)
    Backward.of(codes, target, ensemble, scale).to_encoder_(gradients, X_centred)
    back = Backward.of(pursued, target, ensemble, scale)
    back.to_decoder_(gradients)
    d_bias = back.d_encoder_bias().view_as(gradients.encoder_bias)
    _to_decoder_bias_(gradients, back, d_bias, ensemble, scale)
    return _fvu(back.residual, len(ensemble), scale)


def _fvu(residual: Tensor, n_members: int, scale: float) -> Tensor:
    per_member = residual.view(n_members, -1)
    return torch.linalg.vecdot(per_member, per_member) / scale


def _to_decoder_bias_(
    gradients: Gradients,
    back: Backward,
    d_encoder_bias: Tensor,
    ensemble: Ensemble,
    scale: float,
) -> None:
    """Write derivatives for decoder biases: x_hat has b, the encoder sees x - b."""
    through_encoder = torch.bmm(d_encoder_bias.unsqueeze(1), ensemble.encoder).squeeze(
        1
    )
    torch.sub(
        back.residual.view(len(ensemble), -1, back.residual.shape[1])
        .sum(1)
        .mul_(-2.0 / scale),
        through_encoder,
        out=gradients.decoder_bias,
    )


def add_auxiliary_(
    gradients: Gradients,
    X_centred: Tensor,
    residual: Tensor,
    ensemble: Ensemble,
    dead: list[Tensor],
    total_variance: float,
    low_precision: bool = False,
) -> None:
    """Add the gradients of a loss by which dead atoms learn the residual of the others.

    It is AuxK of Gao et al. (arXiv 2406.04093, A.2): the squared distance between the
    residual, which is held fixed, and its code by a few dead atoms,
    TopK(ReLU(X_centred E^T + c)) D.  Its weight is that of FVU, in the same units,
    instead of 1/32, and decoder biases do not follow it.

    An atom whose pre-activations are negative in all samples has no gradient in this
    loss. With high learning rates, most dead atoms are like this, so their biases are
    pushed up, as by the pre-activation loss of Conerly et al. (Transformer Circuits,
    January 2025).

    Parameters
    ----------
    gradients : Gradients
        Changed in place.
    X_centred : Tensor of shape (n_members, n_samples, n_features)
    residual : Tensor of shape (n_members * n_samples, n_features)
    ensemble : Ensemble
    dead : list of n_members Tensors of shape (n_dead,), int64
    total_variance : float
    low_precision : bool
        Whether codes are found in bfloat16.
    """
    scale = X_centred.shape[1] * total_variance
    residual = residual.view_as(X_centred)
    for i, atoms in enumerate(dead):
        if len(atoms) == 0:
            continue
        # Each member separately, so that it trains as it would alone, to the bit.
        member = slice(i, i + 1)
        few = ensemble[member].only(atoms)
        k = min(AUXILIARY_K, len(atoms))
        codes = encode(X_centred[member], few, k, low_precision)
        found = Gradients.like(few)
        back = Backward.of(codes, residual[i], few, scale)
        back.to_encoder_(found, X_centred[member])
        back.to_decoder_(found)
        # The sum over all processes that share a batch, whose gradients are added.
        # Nothing is left to code of data that are all alike.
        push = PUSH * X_centred.shape[2] / total_variance
        found.encoder_bias.sub_(push * residual[i].any().to(residual.dtype))
        for name in ("encoder", "encoder_bias", "decoder"):
            getattr(gradients, name)[i].index_add_(0, atoms, getattr(found, name)[0])


def add_encoder_penalty_(
    gradient: Tensor, encoder: Tensor, fvu: Tensor, active: Tensor, weight: float
) -> None:
    """Add the gradient of weight * FVU / 2 * squared norm of the encoder.

    Only atoms that are active in the batch are penalised.  As Adam scales gradients, an
    atom without another gradient would lose its encoder in a few steps, and the
    auxiliary loss could not revive it.

    That a penalty on weights makes SAEs of several runs more alike is due to
    arXiv:2603.04198.  As a share of FVU, it has the same effect whether the codes
    explain much or little of the data.

    Parameters
    ----------
    gradient : Tensor of shape (n_members, n_components, n_features)
        Gradient of the encoders, changed in place.
    encoder : Tensor of shape (n_members, n_components, n_features)
    fvu : Tensor of shape (n_members,)
        Held fixed.
    active : Tensor of shape (n_members, n_components), bool
        Whether an atom is active in any sample of the batch.
    weight : float
    """
    share = fvu.unsqueeze(1) * active
    gradient.addcmul_(encoder, share.unsqueeze(2), value=weight)


def add_mutual_penalty_(
    gradient: Tensor,
    dictionaries: Tensor,
    pull: PullGraph,
    alpha: float,
    members: slice = slice(None),
) -> None:
    """Add the gradient of alpha * (1 - mean of C over pairs), for fixed matches.

    Parameters
    ----------
    gradient : Tensor of shape (n_chosen, n_components, n_features)
        Gradient of the dictionaries of the chosen SAEs, changed in place.
    dictionaries : Tensor of shape (n_saes, n_components, n_features)
    pull : PullGraph
        Symmetric weights W between all atoms: the mean of C is 1/2 sum W_ab <D_a, D_b>,
        so its gradient is W D.
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
