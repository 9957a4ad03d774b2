"""Place numbers of tokens at the positions of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from ._models import without_window_padding


class Placing:
    """Places numbers of tokens at the positions of a layer.

    Parameters
    ----------
    model : nn.Module
    layer : str
    skip_first : int
        How many first positions are to be told from the others.
    """

    def __init__(self, model: nn.Module, layer: str, skip_first: int):
        self.model, self.layer, self.skip_first = model, layer, skip_first
        # Whether tokens are on the first axis, and inputs on the second. A pass shows
        # it, unless it has as many inputs as tokens.
        self.tokens_first = False

    def __call__(self, numbers: Tensor | None, activations: Tensor) -> Tensor:
        """Indices as in :func:`left_in`.

        Parameters
        ----------
        numbers : Tensor of shape (n_inputs, n_tokens), or None
            Index of each token, from 1; 0 for padding; None if there are no tokens.
        activations : Tensor of shape (n_inputs, ..., width)

        Raises
        ------
        ValueError
            If positions are to be skipped, and the first ones are not known.
        """
        if numbers is None:
            return every_position(activations)
        numbers, shape = numbers.to(activations.device), activations.shape[:-1]
        n_inputs, n_tokens = numbers.shape
        if shape[:2] == (n_tokens, n_inputs):
            self.tokens_first |= n_inputs != n_tokens
            if self.tokens_first:
                numbers = numbers.T
        if len(shape) > 1:
            inside = without_window_padding(activations, self.model, n_tokens)
            n_padding = shape[1] - inside.shape[1]
            numbers = nn.functional.pad(numbers, (0, n_padding))
        placed = at_positions(numbers, shape)
        if placed is not None:
            return placed
        if self.skip_first and shape[0] not in (1, n_inputs):
            raise not_inputs(self.layer, shape[0], n_inputs)
        if self.skip_first and len(shape) > 1 and (numbers < 1).any():
            raise unknown_padding(self.layer, prod(shape[1:]), n_tokens)
        return every_position(activations)


def not_inputs(layer: str, n_rows: int, n_inputs: int) -> ValueError:
    """Error for a layer whose first axis is not the inputs."""
    return ValueError(
        f"layer={layer!r} gives {n_rows} rows for {n_inputs} inputs: name a layer "
        "whose first axis is the inputs."
    )


def unknown_padding(layer: str, n_positions: int, n_tokens: int) -> ValueError:
    """Error for a layer whose positions are not those of padded inputs."""
    return ValueError(
        f"layer={layer!r} gives {n_positions} positions for {n_tokens} tokens, so "
        "padding cannot be identified. Pass inputs of one length."
    )


def at_positions(numbers: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Numbers of tokens, in the shape of a layer's output without its features.

    Parameters
    ----------
    numbers : Tensor of shape (n_inputs, n_tokens)
    shape : sequence of int
        (n_inputs, n_tokens); with other axes, such as heads, which have the number of
        their token; or (n_inputs * n_tokens, ...).

    Returns
    -------
    Tensor of this shape, or None if its positions are not these tokens
    """
    n_inputs, n_tokens = numbers.shape
    if shape[0] == n_inputs and n_tokens in shape[1:]:
        others = [1] * len(shape)
        others[0], others[tuple(shape).index(n_tokens, 1)] = numbers.shape
        return numbers.reshape(others).expand(*shape)
    if shape[0] == numbers.numel():
        return numbers.reshape(-1, *[1] * (len(shape) - 1)).expand(*shape)
    return None


def every_position(activations: Tensor) -> Tensor:
    """Indices, from 1, of positions that are not tokens.

    A single vector for an input is not at any of its positions; its index is larger
    than all of them.
    """
    n_inputs, *places, _ = activations.shape
    n_positions = prod(places)
    numbers = torch.arange(1, n_positions + 1, device=activations.device)
    if n_positions == 1:
        numbers.fill_(torch.iinfo(numbers.dtype).max)
    return numbers.reshape(places).expand(n_inputs, *places)
