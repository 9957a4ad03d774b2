"""Pad, cut and batch the checked inputs of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ._models import (
    OF_TOKENS,
    accepts,
    ids_argument,
    in_decoder,
    model_device,
    model_dtype,
    n_embeddings,
    sees_tokens,
)


class Batch(NamedTuple):
    """Inputs of one forward pass."""

    start: int
    """index of the first input"""
    stop: int
    """index after the last input"""
    arguments: Tensor | Mapping[str, Tensor]
    """arguments of the model"""
    mask: np.ndarray | None
    """(n_inputs, n_positions) bool, tokens that are not padding; None if all"""
    inputs: Inputs
    """from which they are"""

    def n_tokens_of(self, seen: Inputs) -> int | None:
        """Number of tokens of each input, with padding; None if there are none.

        `seen` is as in :meth:`mask_of`.
        """
        ids: Any = self.arguments if seen is self.inputs else seen.data
        if isinstance(ids, Mapping):
            if "inputs_embeds" in ids:
                return ids["inputs_embeds"].shape[1]
            if "input_ids" not in ids:
                return None
            ids = ids["input_ids"]
        if isinstance(ids, Tensor) and ids.is_floating_point():
            return None
        return ids.shape[1] if ids.ndim == 2 else None

    def mask_of(self, seen: Inputs) -> np.ndarray | None:
        """The mask for layers whose positions are other tokens than those of inputs."""
        if seen is self.inputs:
            return self.mask
        return None if seen.mask is None else seen.mask[self.start : self.stop]


class TokenStream(NamedTuple):
    """Token ids of all inputs, concatenated without padding."""

    ids: np.ndarray
    """(n_tokens,)"""
    begins: np.ndarray
    """(n_inputs + 1,), the start of each input"""

    def windows(
        self, inputs: np.ndarray, positions: np.ndarray, before: int, after: int
    ) -> np.ndarray:
        """Tokens around positions, (..., before + 1 + after), -1 outside the input.

        Parameters
        ----------
        inputs, positions : ndarray of any one shape
            -1 where there is no context.
        before, after : int
        """
        offsets = positions[..., None] + np.arange(-before, after + 1)
        begin, end = self.begins[inputs], self.begins[inputs + 1]
        inside = (offsets >= 0) & (offsets < (end - begin)[..., None])
        inside &= inputs[..., None] >= 0
        places = np.where(inside, begin[..., None] + offsets, 0)
        return np.where(inside, self.ids[places].astype(np.int64), -1)


@dataclass(frozen=True)
class Inputs:
    """Checked inputs of one model."""

    data: np.ndarray | list[np.ndarray] | Mapping[str, np.ndarray]
    """one array; token ids of each input; or arrays by argument name"""
    mask: np.ndarray | None
    """(n_inputs, n_positions) bool, for arrays by argument; padding is at the end"""
    n: int
    of_tokens: frozenset[str] = frozenset()
    """names of the arguments whose arrays have the positions of the mask"""

    def __len__(self) -> int:
        return self.n

    @cached_property
    def lengths(self) -> np.ndarray | None:
        """Tokens of each input, without padding, (n_inputs,); None if all are equal."""
        if self.mask is not None:
            return self.mask.sum(1)
        if isinstance(self.data, list):
            return np.array([len(sequence) for sequence in self.data])
        return None

    @cached_property
    def of_decoder(self) -> Inputs:
        """Tokens of an encoder-decoder's decoder; those of its encoder if it has none.

        Raises
        ------
        ValueError
            If the decoder has tokens that only the model knows.
        """
        data = self.data if isinstance(self.data, Mapping) else {}
        names = "decoder_input_ids", "decoder_inputs_embeds"
        given = {n.removeprefix("decoder_"): data[n] for n in names if n in data}
        if not given:
            if "labels" in data and data["labels"].ndim == 2:
                raise ValueError(
                    "The model makes the tokens of its decoder from labels, and their "
                    "padding is not known: pass these tokens, which are the labels "
                    "shifted to the right, as decoder_input_ids."
                )
            return self
        mask = data.get("decoder_attention_mask")
        mask = None if mask is None or mask.all() else mask.astype(bool)
        return Inputs(given, mask, self.n)

    @cached_property
    def of_media(self) -> Inputs:
        """Images or sounds, without the text beside them; all inputs if there is none.

        Their own padding is not known.
        """
        if not isinstance(self.data, Mapping) or self.data.keys().isdisjoint(OF_TOKENS):
            return self
        data = {n: array for n, array in self.data.items() if n not in OF_TOKENS}
        return Inputs(data, None, self.n)

    def seen_by(self, model: nn.Module, layer: str) -> Inputs:
        """Inputs whose tokens or places are the positions of a layer."""
        if in_decoder(model, layer):
            return self.of_decoder
        return self.of_media if sees_tokens(model, layer) is False else self

    def token_stream(self) -> TokenStream | None:
        """Token ids in one row; None if inputs are not token ids."""
        ids, mask = self.data, self.mask
        if isinstance(ids, Mapping):
            if "input_ids" not in ids:
                return None
            ids = ids["input_ids"]
        if isinstance(ids, list):
            stream = np.concatenate(ids)
        elif ids.ndim != 2 or ids.dtype.kind not in "iu":
            return None
        else:
            stream = ids.reshape(-1) if mask is None else ids[mask]
        lengths = self.lengths
        if lengths is None:
            lengths = np.full(len(self), len(stream) // len(self))
        return TokenStream(stream, np.concatenate([[0], np.cumsum(lengths)]))

    def content(self):
        """Data that identify these inputs, to be hashed, whatever their container."""
        data = self.data
        if isinstance(data, list):
            return (np.concatenate(data), self.lengths)
        if isinstance(data, Mapping):
            data = {name: np.ascontiguousarray(array) for name, array in data.items()}
        else:
            data = np.ascontiguousarray(data)
        return (data, self.mask)

    def batches(
        self, model: nn.Module, batch_size: int, start: int = 0
    ) -> Iterator[Batch]:
        """Batches from `start` on, on the model's device and in its precision."""
        put = _Putter(model, isinstance(self.data, Mapping), self.of_tokens)
        masks = accepts(model, "attention_mask")
        while start < self.n:
            stop = min(start + batch_size, self.n)
            if self.lengths is not None and not masks:
                # The model would take padding for tokens.
                stop = _same_length(self.lengths, start, stop)
            arrays, mask = self._cut(start, stop)
            if masks and mask is not None and not mask.all():
                if not isinstance(arrays, Mapping):
                    arrays = {ids_argument(model): arrays}
                arrays = {"attention_mask": mask.astype(np.int64), **arrays}
            arguments = (
                {name: put(array, name) for name, array in arrays.items()}
                if isinstance(arrays, Mapping)
                else put(arrays)
            )
            yield Batch(start, stop, arguments, mask, self)
            start = stop

    def _cut(self, start: int, stop: int):
        """A slice of the inputs, as an array or arrays by argument, and its mask."""
        if isinstance(self.data, list):
            return _padded(self.data[start:stop])
        if not isinstance(self.data, Mapping):
            return self.data[start:stop], None
        arrays = {name: array[start:stop] for name, array in self.data.items()}
        if self.mask is None:
            return arrays, None
        return without_padding(arrays, self.mask[start:stop], self.of_tokens)


class _Putter:
    """Converts arrays to tensors: token ids unchanged, numbers in the model's dtype.

    Parameters
    ----------
    model : nn.Module
    named : bool
        Whether arrays are arguments by name.
    of_tokens : frozenset of str
        See `Inputs`.
    """

    def __init__(self, model: nn.Module, named: bool, of_tokens: frozenset[str]):
        self.device, self.dtype = model_device(model), model_dtype(model)
        self.named, self.of_tokens = named, of_tokens
        self.embeds = n_embeddings(model) is not None

    def __call__(self, array: np.ndarray, name: str = "") -> Tensor:
        kind, counts = array.dtype.kind, self.embeds and array.ndim == 2
        if self.named:  # models of texts and images may not reveal that they embed ids
            counts = array.ndim < 3 or name in self.of_tokens
        # Some models subtract masks of tokens.
        counts &= kind in "iu" or (name.endswith("attention_mask") and kind == "b")
        if counts:
            return torch.from_numpy(array.astype(np.int64)).to(self.device)
        # torch accepts no reversed axes and no foreign byte order.
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        # Models negate truth values and select by them; numbers mean something else.
        dtype = torch.bool if self.named and kind == "b" else self.dtype
        return torch.from_numpy(array).to(self.device, dtype)


def _same_length(lengths: np.ndarray, start: int, stop: int) -> int:
    """End of the run of equally long sequences that begins at the start."""
    same = lengths[start:stop] == lengths[start]
    return stop if same.all() else start + int(same.argmin())


def _padded(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences padded with zeros at the end, and their mask."""
    lengths = np.array([len(sequence) for sequence in sequences])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate(sequences)
    return ids, mask


def without_padding(
    arrays: dict[str, np.ndarray], mask: np.ndarray, of_tokens: frozenset[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays and their mask without columns at the end that are all padding."""
    width = int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
    cut = {n: a[:, :width] if n in of_tokens else a for n, a in arrays.items()}
    return cut, mask[:, :width]
