"""Check, pad and cut the inputs of a model: token ids, texts, images, any batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import assert_all_finite
from torch import Tensor, nn

from .._data.sources import as_array
from ._models import (
    accepts,
    context_length,
    ids_argument,
    model_device,
    model_dtype,
    n_embeddings,
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
            if "labels" in data:
                raise ValueError(
                    "The model makes the tokens of its decoder from labels: pass them "
                    "as decoder_input_ids, because their padding is not known."
                )
            return self
        mask = data.get("decoder_attention_mask")
        mask = None if mask is None or mask.all() else mask.astype(bool)
        return Inputs(given, mask, self.n)

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
        put = _Putter(model, isinstance(self.data, Mapping))
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
                {name: put(array) for name, array in arrays.items()}
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
        return _without_padding(arrays, self.mask[start:stop], self.of_tokens)


class _Putter:
    """Converts arrays to tensors: ids and truth values unchanged, numbers in the
    model's precision.
    """

    def __init__(self, model: nn.Module, named: bool):
        self.device, self.dtype = model_device(model), model_dtype(model)
        # Models of texts and images may not reveal that they embed ids.
        self.embeds = named or n_embeddings(model) is not None

    def __call__(self, array: np.ndarray) -> Tensor:
        if array.dtype.kind in "iu" and (self.embeds and array.ndim == 2):
            return torch.from_numpy(array.astype(np.int64)).to(self.device)
        # torch accepts no reversed axes and no foreign byte order.
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        # Models negate and select by truth values, which numbers would do otherwise.
        dtype = torch.bool if array.dtype.kind == "b" else self.dtype
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


def _padded_at_the_end(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Rows shifted to the left, so that each begins with its first token.

    Many models count positions from the first column, even if it is padding.

    Parameters
    ----------
    array : ndarray of shape (n_inputs, n_positions, ...)
    mask : ndarray of shape (n_inputs, n_positions), bool
        Positions that are not padding; at least one in each row.
    """
    begins = mask.argmax(axis=1)
    if not begins.any():
        return array
    order = (begins[:, None] + np.arange(mask.shape[1])) % mask.shape[1]
    return array[np.arange(len(array))[:, None], order]


def _without_padding(
    arrays: dict[str, np.ndarray], mask: np.ndarray, of_tokens: frozenset[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays and their mask without columns at the end that are all padding."""
    width = int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
    cut = {n: a[:, :width] if n in of_tokens else a for n, a in arrays.items()}
    return cut, mask[:, :width]


def check_inputs(
    X,
    model: nn.Module,
    tokenizer=None,
    max_length: int | None = None,
    pad_token_id: int | None = None,
    name: str = "X",
) -> Inputs:
    """Check the user's inputs and convert them to `Inputs`.

    Parameters
    ----------
    X : array-like, sequence of str, sequence of sequences of int, or mapping
        See :class:`ActivationExtractor`.
    model : nn.Module
    tokenizer : callable, optional
    max_length : int, optional
        Maximum number of tokens; longer sequences are cut.
    pad_token_id : int, optional
        Id that fills short rows of X, at either end; see :meth:`_Checks.text`.
    name : str
        Name of X in errors.

    Returns
    -------
    Inputs

    Raises
    ------
    TypeError
        If X holds another kind of input, or texts come without a tokenizer.
    ValueError
        If X is empty, or has ids that the model does not know, sequences that are
        empty or too long, or numbers that are not finite.
    """
    checks = _Checks(
        name, n_embeddings(model), context_length(model), max_length, pad_token_id
    )
    if isinstance(X, Mapping):
        return checks.mapping(X)
    X = _plain(X)
    if isinstance(X, str) or not isinstance(X, (np.ndarray, Sequence)):
        raise TypeError(
            f"{name} must be an array, a list of texts, a list of sequences of token "
            f"ids, or a mapping, got {type(X).__name__}."
        )
    if len(X) == 0:
        raise ValueError(f"{name} is empty: at least one input is needed.")
    if isinstance(X, np.ndarray) and X.shape[1:] == (1,) and isinstance(X[0, 0], str):
        raise TypeError(
            f"{name} is a table with one column of texts, of shape {X.shape}: pass the "
            "column."
        )
    if isinstance(X[0], str):
        return checks.sequences(_tokenized(X, tokenizer, name))
    if isinstance(X, np.ndarray) and X.dtype != object:
        return checks.array(X)
    parts = [np.asarray(as_array(part)) for part in X]
    shapes = {part.shape for part in parts}
    # An empty sequence has no type that could be checked.
    of_ids = checks.vocabulary and all(
        part.ndim == 1 and (part.dtype.kind in "iu" or not part.size) for part in parts
    )
    if of_ids and (len(shapes) > 1 or (0,) in shapes):
        return checks.sequences(parts)
    if len(shapes) > 1:
        raise ValueError(
            f"{name} has inputs of different shapes, the first {parts[0].shape}; only "
            "sequences of token ids may differ in length."
        )
    return checks.array(np.stack(parts))


def holds_texts(X) -> bool:
    """Whether the inputs are texts."""
    X = _plain(X)
    if not isinstance(X, (np.ndarray, Sequence)) or len(X) == 0:
        return False
    return isinstance(X[0], str)


def _plain(X):
    """Tensors, DataFrames and Series as arrays; everything else unchanged."""
    return X.to_numpy() if hasattr(X, "to_numpy") else as_array(X)


def _tokenized(texts, tokenizer, name: str) -> list[np.ndarray]:
    if tokenizer is None:
        raise TypeError(
            f"{name} holds texts: tokenizer must be given, got None. (A model given by "
            "name loads its own tokenizer.)"
        )
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must hold only texts if its first input is one.")
    tokens = tokenizer(list(texts))
    ids = [np.asarray(sequence, dtype=np.int64) for sequence in tokens["input_ids"]]
    if "attention_mask" not in tokens:
        return ids
    # A tokenizer may have been told to pad.
    masks = [np.asarray(mask, dtype=bool) for mask in tokens["attention_mask"]]
    return [sequence[mask] for sequence, mask in zip(ids, masks, strict=True)]


def _is_of_tokens(name: str, array: np.ndarray, mask: np.ndarray) -> bool:
    """Whether an argument has one entry for each token of a mask."""
    if name.startswith("decoder_") or array.shape[:2] != mask.shape:
        return False
    return array.ndim == 2 or name == "inputs_embeds"


class _Checks(NamedTuple):
    """Checks of the inputs of a model."""

    name: str
    vocabulary: int | None
    context: int | None
    max_length: int | None
    pad_token_id: int | None

    def sequences(self, sequences: list[np.ndarray]) -> Inputs:
        """Check token ids without padding."""
        lengths = [len(sequence) for sequence in sequences]
        if min(lengths) == 0:
            raise ValueError(
                f"{self.name}[{lengths.index(0)}] has no tokens: inputs must not be "
                "empty."
            )
        sequences = [sequence[: self.max_length] for sequence in sequences]
        longest = max(map(len, sequences))
        self.length(longest)
        ids = np.concatenate(sequences)
        self.ids(ids.min(), ids.max())
        alike = len(ids) == longest * len(sequences)
        data = ids.reshape(-1, longest) if alike else sequences
        return Inputs(data, None, len(sequences))

    def array(self, X: np.ndarray) -> Inputs:
        if X.size == 0 or X.ndim < 2:
            raise ValueError(
                f"{self.name} must have one non-empty row for each input, got shape "
                f"{X.shape}. To cut a stream of tokens into windows, use "
                f"{self.name}.reshape(-1, 256)."
            )
        self.numbers(X, self.name)
        if self.vocabulary is None or X.ndim > 2:
            return Inputs(X, None, len(X))
        if X.dtype.kind not in "iu":
            raise TypeError(
                f"{self.name} must hold token ids, which are integers, got dtype "
                f"{X.dtype}."
            )
        mask = self.text(X)
        if mask is not None and not mask.all():
            ends = np.cumsum(mask.sum(axis=1))
            return self.sequences(np.split(X[mask], ends[:-1]))
        X = X[:, : self.max_length]
        self.length(X.shape[1])
        self.ids(X.min(), X.max())
        return Inputs(X, None, len(X))

    def mapping(self, X: Mapping) -> Inputs:
        data = {name: self.argument(name, value) for name, value in X.items()}
        lengths = {name: array.shape[:1] for name, array in data.items()}
        if len(set(lengths.values())) != 1 or min(lengths.values()) < (1,):
            raise ValueError(
                f"All arguments in {self.name} must have the same number of inputs, at "
                f"least one, got {lengths}."
            )
        for name, array in data.items():
            if not array.size:
                raise ValueError(f"{self.name}[{name!r}] is empty: {array.shape}.")
        mask = self.mask(data)
        n_inputs = next(iter(lengths.values()))[0]
        if mask is None:
            return Inputs(data, None, n_inputs)
        of_tokens = frozenset(n for n in data if _is_of_tokens(n, data[n], mask))
        data |= {name: _padded_at_the_end(data[name], mask) for name in of_tokens}
        mask = _padded_at_the_end(mask, mask)
        mask = mask[:, : self.max_length]
        data |= {name: data[name][:, : self.max_length] for name in of_tokens}
        data, mask = _without_padding(data, mask, of_tokens)
        ids = data.get("input_ids")
        if ids is not None and ids.ndim == 2:
            self.length(ids.shape[1])
            self.ids(ids.min(), ids.max())
        return Inputs(data, None if mask.all() else mask, n_inputs, of_tokens)

    def mask(self, data: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Which tokens in arrays by argument are not padding; None without tokens."""
        for name in "attention_mask", "decoder_attention_mask":
            if name not in data:
                continue
            if data[name].ndim != 2:
                raise ValueError(
                    f"{self.name}[{name!r}] must be of shape (n_inputs, n_tokens), got "
                    f"{data[name].shape}."
                )
            self.filled(data[name].astype(bool))
        ids, mask = data.get("input_ids"), data.get("attention_mask")
        if mask is not None:
            mask = mask.astype(bool)
        elif ids is not None and ids.ndim == 2:
            mask = self.text(ids)
            if mask is None:
                mask = np.ones(ids.shape, dtype=bool)
        return mask

    def argument(self, name: str, value) -> np.ndarray:
        whose = f"{self.name}[{name!r}]"
        try:
            array = np.asarray(as_array(value))
        except ValueError as error:
            raise ValueError(
                f"{whose} has inputs of different lengths: pad them (tokenizers do so "
                f"with padding=True), or pass {whose} alone."
            ) from error
        self.numbers(array, whose)
        return array

    def numbers(self, array: np.ndarray, name: str) -> None:
        if array.dtype.kind not in "iufb":
            raise TypeError(f"{name} must hold numbers or texts, got {array.dtype}.")
        assert_all_finite(array, input_name=name)

    def text(self, ids: np.ndarray) -> np.ndarray | None:
        """Which tokens are not padding, (n_inputs, n_tokens); None if all.

        Runs of the pad id at either end are padding; inside, it is an ordinary token.
        At the start it may be BOS. It then counts as text in rows that end in padding,
        and in rows that begin with exactly one if other rows end in padding or if all
        rows begin with one.
        """
        if self.pad_token_id is None:
            return None
        token = np.not_equal(ids, self.pad_token_id)
        self.filled(token)
        before, after = token.argmax(axis=1), token[:, ::-1].argmax(axis=1)
        one = before == 1
        begins = np.where((after > 0) | one & (after.any() or one.all()), 0, before)
        places, ends = np.arange(ids.shape[1]), ids.shape[1] - after
        return (places >= begins[:, None]) & (places < ends[:, None])

    def filled(self, mask: np.ndarray) -> None:
        filled = mask.any(axis=1)
        if not filled.all():
            raise ValueError(
                f"{self.name}[{filled.argmin()}] is all padding: inputs must not be "
                "empty."
            )

    def length(self, length: int) -> None:
        if self.context is not None and length > self.context:
            raise ValueError(
                f"{self.name} has a sequence of {length} tokens, but the model's "
                f"context is {self.context}: cut it into windows, or set max_length."
            )

    def ids(self, smallest: int, largest: int) -> None:
        size = self.vocabulary
        if size is not None and not 0 <= smallest <= largest < size:
            wrong = largest if largest >= size else smallest
            raise ValueError(
                f"{self.name} has the token id {wrong}, but the model's vocabulary "
                f"goes from 0 to {size - 1}: was it made with another tokenizer?"
            )
