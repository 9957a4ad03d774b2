"""Extract activations of layers batch by batch, and make rows of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import compress
from os import fspath
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from tqdm import tqdm

from ._check_inputs import check_inputs, holds_texts
from ._inputs import Batch, Inputs
from ._loading import as_model, load_tokenizer
from ._models import (
    evaluating,
    feature_axis_of,
    features_last,
    find_layer,
    in_decoder,
    outputs_of_layers,
    virtual_tokens,
    without_window_padding,
)
from ._placing import at_positions, not_inputs, unknown_padding
from ._pooling import check_left, code, pool
from ._positions import left_in, numbers_of, position_norms
from ._storage import RowFile

if TYPE_CHECKING:
    from ._extractor import ActivationExtractor

Rows: TypeAlias = np.ndarray | sparse.csr_array


class Block(NamedTuple):
    """Activations of some consecutive inputs."""

    start: int
    """index of the first input"""
    activations: Tensor
    """(n_inputs, n_positions, width)"""
    tokens: np.ndarray | None
    """(n_inputs, n_positions) bool, positions that are not padding; None if all"""
    counting: np.ndarray | None
    """(n_inputs, n_positions) bool, positions that count; None if all"""
    n_each: int = 1
    """number of positions of each token, as for attention heads"""

    @property
    def lengths(self) -> np.ndarray:
        """Number of positions that count, (n_inputs,)."""
        return _numbers(self.activations, self.counting)

    @property
    def n_tokens(self) -> int:
        """Number of positions that are not padding."""
        return int(_numbers(self.activations, self.tokens).sum())

    @property
    def places(self) -> np.ndarray | None:
        """Index in the input, without padding, of each position that counts.

        (n_counting,); None if positions are numbered from 0 in each input.
        """
        if self.counting is self.tokens or self.counting is None:
            return None
        tokens = np.ones_like(self.counting) if self.tokens is None else self.tokens
        return (np.cumsum(tokens, axis=1) - 1)[self.counting]

    def pooled(self, positions: str | int) -> np.ndarray:
        """Pool the activations, see :func:`pool`, in at least float32."""
        half = self.activations.itemsize < 4
        activations = self.activations.float() if half else self.activations
        return pool(activations, self.counting, positions).cpu().numpy()

    def since(self, start: int) -> Block | None:
        """Drop the inputs before a given one; None if no input remains."""
        n = start - self.start
        if n <= 0:
            return self
        if n >= len(self.activations):
            return None
        masks = (self.tokens, self.counting)
        tokens, counting = (None if mask is None else mask[n:] for mask in masks)
        return Block(start, self.activations[n:], tokens, counting, self.n_each)

    def norms(self) -> np.ndarray:
        """Norms of the activations that count, (n_counting,)."""
        norms = position_norms(self.activations).cpu().numpy()
        return norms.reshape(-1) if self.counting is None else norms[self.counting]


def _numbers(activations: Tensor, mask: np.ndarray | None) -> np.ndarray:
    n_inputs, n_positions, _ = activations.shape
    return np.full(n_inputs, n_positions) if mask is None else mask.sum(1)


class _Layer(NamedTuple):
    """A layer to extract."""

    name: str
    feature_axis: int | None
    """see :func:`features_last`"""
    max_norm: float | None
    """the norm above which positions are left out"""
    seen: Inputs
    """inputs whose tokens or places are the positions of the layer"""
    in_decoder: bool
    """whether they are those of a decoder, which has no windows"""
    n_virtual: int
    """number of learned tokens before those of each input"""


class Extraction(NamedTuple):
    """The layers and positions to extract."""

    model: nn.Module
    layers: tuple[str, ...]
    feature_axis: int | None
    batch_size: int
    device: str | None
    verbose: int
    skip_first: int = 0
    """number of first positions of each input, without padding, to leave out"""
    max_norms: tuple[float | None, ...] = (None,)
    """for each layer, the norm above which positions are left out"""
    checked: bool = False
    """whether one input alone has shown that inputs are on the first axis"""
    positions: str | int = "all"
    """of each input, see :func:`pool`"""

    @contextmanager
    def blocks(self, inputs: Inputs, start: int = 0) -> Iterator[Iterator[list[Block]]]:
        """Activations of all inputs from `start` on, as one block for each layer.

        The context keeps the model in evaluation mode.

        Raises
        ------
        ValueError
            If the layer does not exist, does not run, or has other positions than the
            inputs.
        """
        bar = tqdm(
            desc=", ".join(self.layers),
            total=len(inputs),
            initial=start,
            unit=" inputs",
            disable=not self.verbose,
        )
        with evaluating(self.model, self.device), bar:
            batches = inputs.batches(self.model, self.batch_size, start)
            layers = [
                self._layer(name, max_norm, inputs)
                for name, max_norm in zip(self.layers, self.max_norms, strict=True)
            ]
            yield self._blocks(batches, inputs, layers, bar)

    def first(self, inputs: Inputs) -> list[Block]:
        """Activations of only the first input, for each layer."""
        with self._replace(batch_size=1, verbose=0).blocks(inputs) as blocks:
            return next(blocks)

    def norms(self, inputs: Inputs) -> list[np.ndarray]:
        """Norms at all positions that count, (n_counting,), for each layer."""
        with self.blocks(inputs) as blocks:
            norms = [[block.norms() for block in of_layers] for of_layers in blocks]
        return [np.concatenate(of_layer) for of_layer in zip(*norms, strict=True)]

    def _layer(self, name: str, max_norm: float | None, inputs: Inputs) -> _Layer:
        axis = self.feature_axis
        if axis is None:
            axis = feature_axis_of(self.model, name)
        decodes = in_decoder(self.model, name)
        seen = inputs.seen_by(self.model, name)
        n_virtual, _ = virtual_tokens(self.model)
        return _Layer(name, axis, max_norm, seen, decodes, n_virtual)

    def _blocks(
        self,
        batches: Iterator[Batch],
        inputs: Inputs,
        layers: list[_Layer],
        bar: tqdm,
    ) -> Iterator[list[Block]]:
        checked = self.checked
        for batch in batches:
            outputs = outputs_of_layers(self.model, self.layers, batch.arguments)
            n_inputs = batch.stop - batch.start
            if not checked and any(_may_be_swapped(x, n_inputs) for x in outputs):
                first = next(inputs.batches(self.model, 1))
                of_first = outputs_of_layers(self.model, self.layers, first.arguments)
                self._of_layers(first, layers, of_first)
                checked = True
            bar.update(n_inputs)
            yield self._of_layers(batch, layers, outputs)

    def _of_layers(
        self, batch: Batch, layers: list[_Layer], outputs: list[Tensor]
    ) -> list[Block]:
        pairs = zip(layers, outputs, strict=True)
        return [self._block(batch, layer, output) for layer, output in pairs]

    def _block(self, batch: Batch, layer: _Layer, output: Tensor) -> Block:
        moved, _ = features_last(output, layer.feature_axis, layer.name)
        n_inputs = batch.stop - batch.start
        if len(moved) != n_inputs:
            raise not_inputs(layer.name, len(moved), n_inputs)
        mask, n_tokens = batch.mask_of(layer.seen), batch.n_tokens_of(layer.seen)
        if mask is not None:
            n_tokens = mask.shape[1]
        if not layer.in_decoder and moved.ndim > 2:
            moved = without_window_padding(moved, self.model, n_tokens)
            if n_tokens and moved.shape[1] == n_tokens + layer.n_virtual:
                moved = moved[:, layer.n_virtual :]
        activations = moved.reshape(n_inputs, -1, moved.shape[-1])
        numbers = _numbers_of(mask, n_tokens, moved.shape[:-1])
        n_each = 1
        if numbers is not None and n_tokens:
            n_each = activations.shape[1] // n_tokens
            if n_each > 1 and self.positions not in ("all", "mean", "max"):
                raise ValueError(
                    f"layer={layer.name!r} gives {n_each} positions for each token, as "
                    f"for heads, but positions={self.positions!r} names only one: use "
                    "'all', 'mean' or 'max'."
                )
        tokens = _tokens(activations, mask, numbers, layer.name)
        # A single vector for an input is not at any of its positions.
        skip_first = self.skip_first if output.ndim > 2 else 0
        counting = _counting(activations, numbers, tokens, skip_first, layer.max_norm)
        return Block(batch.start, activations, tokens, counting, n_each)

    def rows(
        self, inputs: Inputs, positions: str | int, sae=None
    ) -> list[tuple[Rows, np.ndarray]]:
        """One row per input, or per position that counts, for each layer.

        Parameters
        ----------
        inputs : Inputs
        positions : str or int
            See :func:`pool`.
        sae : fitted transformer, optional
            Codes the activations before they are pooled.

        Returns
        -------
        list of (rows, lengths)
            ndarray or CSR array, and number of positions that count, (n_inputs,).
        """
        seen = [inputs.seen_by(self.model, layer) for layer in self.layers]
        stacks = [Stack(of_layer, positions, sae) for of_layer in seen]
        with self.blocks(inputs) as blocks:
            for of_layers in blocks:
                for stack, block in zip(stacks, of_layers, strict=True):
                    stack.add(block)
        return [stack.whole() for stack in stacks]

    def rows_in_files(
        self, inputs: Inputs, positions: str | int, sae, files: list[RowFile]
    ) -> list[np.memmap]:
        """Write the same rows to files, or read them from complete files.

        Raises
        ------
        ValueError
            If `sae` gives sparse codes.
        """
        # Somebody else may complete a file meanwhile.
        wanted = [not file.complete for file in files]
        missing = list(compress(files, wanted))
        if missing:
            start = min(file.n_inputs for file in missing)
            with self.blocks(inputs, start) as blocks, ExitStack() as opened:
                writers = [
                    opened.enter_context(FileWriter(file, positions, sae))
                    for file in missing
                ]
                for of_layers in blocks:
                    of_missing = compress(of_layers, wanted)
                    for writer, block in zip(writers, of_missing, strict=True):
                        writer.add(block)
            for file in missing:
                check_left(np.array([file.n_rows]), positions)
                file.finish()
        return [file.read() for file in files]


class Stack:
    """Rows of one layer, collected in memory."""

    def __init__(self, inputs: Inputs, positions: str | int, sae):
        self.inputs, self.positions, self.sae = inputs, positions, sae
        self.rows: np.ndarray | None = None
        self.n_rows = 0
        self.parts: list[sparse.csr_array] = []
        self.lengths: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        self.lengths.append(block.lengths)
        part = block_rows(block, self.positions, self.sae)
        if part is None:
            return
        if sparse.issparse(part):
            self.parts.append(part)
            return
        if self.rows is None:
            n_most = most_rows(self.inputs, self.positions, block)
            self.rows = np.empty((n_most, part.shape[1]), part.dtype)
        self.rows[self.n_rows : self.n_rows + len(part)] = part
        self.n_rows += len(part)

    def whole(self) -> tuple[Rows, np.ndarray]:
        """All rows, and the number of positions of each input that count."""
        lengths = np.concatenate(self.lengths)
        check_left(lengths, self.positions)
        if self.rows is None:
            return sparse.vstack(self.parts, format="csr"), lengths
        return self.rows[: self.n_rows], lengths


class FileWriter:
    """Writes rows of one layer to a file, in a ``with`` statement."""

    def __init__(self, file: RowFile, positions: str | int, sae):
        self.file, self.positions, self.sae = file, positions, sae
        self.n_inputs = 0
        """inputs that are done but not yet recorded, because they gave no rows"""

    def __enter__(self) -> FileWriter:
        self.file.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.file.__exit__(*error)

    def add(self, block: Block) -> None:
        """Write the rows of inputs that are not in the file yet."""
        left = block.since(self.file.n_inputs + self.n_inputs)
        if left is None:
            return
        self.n_inputs += len(left.activations)
        part = block_rows(left, self.positions, self.sae)
        if part is None:
            return
        if sparse.issparse(part):
            raise ValueError(
                "out stores dense rows, but sae gives sparse codes: set "
                "sparse_output=False on sae."
            )
        self.file.append(part, self.n_inputs)
        self.n_inputs = 0


def _may_be_swapped(output: Tensor, n_inputs: int) -> bool:
    """Whether positions on the first axis of an output would pass for inputs."""
    return output.ndim > 2 and 1 < n_inputs == output.shape[0] == output.shape[1]


def _numbers_of(
    mask: np.ndarray | None, n_tokens: int | None, shape: torch.Size
) -> Tensor | None:
    """Index of the token of each position, from 1; 0 for padding.

    (n_inputs, n_positions); None if the positions are not these tokens.
    """
    if mask is None:
        if n_tokens is None:
            return None
        mask = np.ones((shape[0], n_tokens), dtype=bool)
    numbers = at_positions(numbers_of(torch.from_numpy(mask)), shape)
    return None if numbers is None else numbers.reshape(shape[0], -1)


def _tokens(
    activations: Tensor, mask: np.ndarray | None, numbers: Tensor | None, layer: str
) -> np.ndarray | None:
    n_positions = activations.shape[1]
    if mask is None or n_positions == 1:
        return None
    if numbers is None:
        raise unknown_padding(layer, n_positions, mask.shape[1])
    return numbers.numpy() > 0


def _counting(
    activations: Tensor,
    numbers: Tensor | None,
    tokens: np.ndarray | None,
    skip_first: int,
    max_norm: float | None,
) -> np.ndarray | None:
    if not skip_first and max_norm is None:
        return tokens
    if numbers is None:
        numbers = numbers_of(torch.ones(activations.shape[:2], dtype=torch.bool))
    numbers = numbers.to(activations.device)
    return left_in(activations, numbers, skip_first, max_norm).cpu().numpy()


def most_rows(inputs: Inputs, positions: str | int, block: Block) -> int:
    """Upper bound on the number of rows of all inputs, from one of their blocks."""
    n_positions = block.activations.shape[1]
    if positions != "all" or n_positions == 1:
        return len(inputs)
    lengths = inputs.lengths
    if lengths is None:
        return len(inputs) * n_positions
    return int(lengths.sum()) * block.n_each


def block_rows(block: Block, positions: str | int, sae):
    """Pooled activations or codes of a block, dense or CSR; None if nothing counts."""
    lengths = block.lengths
    if positions == "all" and not lengths.any():
        return None
    check_left(lengths, positions, block.start)
    if sae is None:
        return block.pooled(positions)
    return code(block.pooled("all"), lengths, positions, sae)


def prepared(
    extractor: ActivationExtractor, X, fitting: bool = False
) -> tuple[Extraction, Inputs]:
    """The model, ready to run, and the checked inputs.

    Raises
    ------
    NotFittedError
        If the extractor needs `median_norm_` and is not fitted.
    """
    extractor._validate_params()
    layers = _layers_of(extractor)
    max_norms = (None,) * len(layers) if fitting else extractor._max_norms()
    model, device = as_model(extractor.model, extractor.device)
    tokenizer = extractor.tokenizer
    if tokenizer is None and model is not extractor.model and holds_texts(X):
        tokenizer = load_tokenizer(fspath(extractor.model))
    for layer in layers:
        find_layer(model, layer)
    inputs = check_inputs(
        X, model, tokenizer, extractor.max_length, extractor.pad_token_id
    )
    extraction = Extraction(
        model,
        layers,
        extractor.feature_axis,
        extractor.batch_size,
        device,
        extractor.verbose,
        extractor.skip_first,
        max_norms,
        fitting or hasattr(extractor, "n_features_out_"),
        extractor.positions,
    )
    return extraction, inputs


def _layers_of(extractor: ActivationExtractor) -> tuple[str, ...]:
    if isinstance(extractor.layer, str):
        return (extractor.layer,)
    layers = tuple(extractor.layer)
    if not layers or not all(isinstance(layer, str) for layer in layers):
        raise ValueError(
            f"layer must be the name of a layer, or a list of names, got {layers!r}."
        )
    if len(set(layers)) < len(layers):
        raise ValueError(f"layer must name each layer once, got {list(layers)!r}.")
    if extractor.sae is not None:
        raise ValueError(
            f"sae codes one layer, but layer names {len(layers)}: fit one SAE for each "
            "layer."
        )
    return layers
