"""Check the inputs of a model: token ids, texts, images, any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.utils import assert_all_finite
from torch import nn

from .._utils.checks import as_array
from ._inputs import Inputs, without_padding
from ._models import context_length, n_embeddings


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
    """Tensors, tables and their columns as arrays; everything else unchanged."""
    if not hasattr(X, "to_numpy"):
        return as_array(X)
    try:
        return X.to_numpy()
    except ValueError:  # pyarrow, for example with texts, makes a copy only here
        return np.asarray(X)


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
    """Whether an argument has one entry, or row, for each token of a mask."""
    if array.shape[:2] != mask.shape or name.startswith("decoder_"):
        return False
    # A matrix for each input is about pairs of tokens, and the second is not moved.
    pairs = array.shape == (*mask.shape, mask.shape[1])
    return not pairs and not _is_medium(name, array)


def _is_medium(name: str, array: np.ndarray) -> bool:
    """Whether an argument holds images or sounds, rather than numbers for tokens."""
    words = "pixel", "image", "video", "audio", "input_features", "input_values"
    return array.ndim > 3 or array.ndim == 3 and any(word in name for word in words)


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
        data, mask = without_padding(data, mask, of_tokens)
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
