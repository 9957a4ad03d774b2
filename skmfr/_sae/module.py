"""A sparse autoencoder as a PyTorch module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .arrays import WEIGHTS, check_k


class SparseAutoencoderModule(nn.Module):
    """The encoder and decoder of an SAE, in differentiable operations.

    Unlike a `Coder`, it computes all scores and dense codes, and leaves ties and
    effects of rounding to PyTorch.

    Parameters
    ----------
    encoder, decoder : Tensor of shape (n_components, n_features)
    encoder_bias : Tensor of shape (n_components,)
    decoder_bias : Tensor of shape (n_features,)
    threshold : Tensor of shape (n_components,), optional
    k : int, optional
    error_term : bool
    """

    threshold: Tensor | None

    def __init__(
        self,
        encoder: Tensor,
        encoder_bias: Tensor,
        decoder: Tensor,
        decoder_bias: Tensor,
        threshold: Tensor | None = None,
        k: int | None = None,
        error_term: bool = False,
    ):
        super().__init__()
        self.encoder = nn.Parameter(encoder)
        self.encoder_bias = nn.Parameter(encoder_bias)
        self.decoder = nn.Parameter(decoder)
        self.decoder_bias = nn.Parameter(decoder_bias)
        self.register_buffer("threshold", threshold)
        self.k = None if k is None else min(k, len(encoder))
        self.error_term = error_term
        # For hooks, which may read and change the values that pass here.
        self.codes, self.error = nn.Identity(), nn.Identity()

    def encode(self, x: Tensor) -> Tensor:
        """Codes (..., n_components) of activations (..., n_features)."""
        centred = x.to(self.encoder.dtype) - self.decoder_bias
        scores = linear(centred, self.encoder, self.encoder_bias)
        if self.threshold is not None:
            # The code is the score, so the threshold has no gradient.
            scores = scores * (scores > self.threshold)
        scores = scores.relu()
        if self.k is None:
            return scores
        values, indices = scores.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(scores).scatter(-1, indices, values)

    def decode(self, codes: Tensor) -> Tensor:
        """Activations (..., n_features) of codes (..., n_components)."""
        return codes @ self.decoder + self.decoder_bias

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions, optionally with the error term, in the dtype of x."""
        codes = self.encode(x)
        if not self.error_term:
            return self.decode(self.codes(codes)).to(x.dtype)
        # Computed before a hook receives the codes and perhaps edits them in place, so
        # that its changes have an effect.
        error = (x.to(self.decoder.dtype) - self.decode(codes)).detach()
        return (self.decode(self.codes(codes)) + self.error(error)).to(x.dtype)

    def extra_repr(self) -> str:
        n_components, n_features = self.decoder.shape
        return f"{n_features}, {n_components}, k={self.k}, error_term={self.error_term}"


def module_of(estimator, error_term: bool) -> SparseAutoencoderModule:
    """The module of a fitted estimator, with copies of its weights.

    Raises
    ------
    ValueError
        If TopK has no number of atoms.
    """
    weights = [torch.tensor(getattr(estimator, name)) for name in WEIGHTS]
    encoder, encoder_bias, decoder, decoder_bias = weights
    k, threshold = estimator._selection
    check_k(k, threshold)
    return SparseAutoencoderModule(
        encoder,
        encoder_bias,
        decoder,
        decoder_bias,
        None if threshold is None else torch.tensor(threshold),
        k,
        error_term,
    )
