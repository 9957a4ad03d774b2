"""Activations of one layer, batch by batch, and the rows made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from tqdm import tqdm

from ._inputs import Batch, Inputs
from ._models import as_positions, evaluating, output_of_layer
from ._pooling import check_left, code, pool
from ._positions import left_in, numbers_of, position_norms
from ._storage import RowFile


class Block(NamedTuple):
    """Activations of some consecutive inputs."""

    start: int
    """number of the first input"""
    activations: Tensor
    """(n_inputs, n_positions, width)"""
    tokens: np.ndarray | None
    """(n_inputs, n_positions) bool, which positions are not padding; None if all"""
    counting: np.ndarray | None
    """(n_inputs, n_positions) bool, which are not left out either; None if all"""

    @property
    def lengths(self) -> np.ndarray:
        """Positions that count, (n_inputs,)."""
        return _numbers(self.activations, self.counting)

    @property
    def n_tokens(self) -> int:
        """Positions that are not padding."""
        return int(_numbers(self.activations, self.tokens).sum())

    @property
    def places(self) -> np.ndarray | None:
        """Place in the input, padding not counted, of each position that counts.

        (n_counting,); None if these are numbered from 0 in each input.
        """
        if self.counting is self.tokens or self.counting is None:
            return None
        tokens = np.ones_like(self.counting) if self.tokens is None else self.tokens
        return (np.cumsum(tokens, axis=1) - 1)[self.counting]

    def pooled(self, positions: str | int) -> np.ndarray:
        """See :func:`pool`; in float32 if the model has less."""
        half = self.activations.itemsize < 4
        activations = self.activations.float() if half else self.activations
        return pool(activations, self.counting, positions).cpu().numpy()

    def norms(self) -> np.ndarray:
        """Of the activations that count, (n_counting,)."""
        norms = position_norms(self.activations).cpu().numpy()
        return norms.reshape(-1) if self.counting is None else norms[self.counting]


def _numbers(activations: Tensor, mask: np.ndarray | None) -> np.ndarray:
    n_inputs, n_positions, _ = activations.shape
    return np.full(n_inputs, n_positions) if mask is None else mask.sum(1)


class Extraction(NamedTuple):
    """Which activations are wanted."""

    model: nn.Module
    layer: str
    feature_axis: int | None
    batch_size: int
    device: str | None
    verbose: int
    skip_first: int = 0
    """first positions of each input, padding aside, that are left out"""
    max_norm: float | None = None
    """positions with a larger norm are left out"""

    @contextmanager
    def blocks(self, inputs: Inputs, start: int = 0) -> Iterator[Iterator[Block]]:
        """Activations of all inputs from one on; the context holds the model.

        Raises
        ------
        ValueError
            If the layer does not exist or run, or has other positions than the inputs.
        """
        bar = tqdm(
            desc=self.layer,
            total=len(inputs),
            initial=start,
            unit=" inputs",
            disable=not self.verbose,
        )
        with evaluating(self.model, self.device), bar:
            batches = inputs.batches(self.model, self.batch_size, start)
            yield (self._block(batch, bar) for batch in batches)

    def first(self, inputs: Inputs) -> Block:
        """Activations of the first input alone."""
        with self._replace(batch_size=1, verbose=0).blocks(inputs) as blocks:
            return next(blocks)

    def norms(self, inputs: Inputs) -> np.ndarray:
        """Of the activations at all positions that count, (n_counting,)."""
        with self.blocks(inputs) as blocks:
            return np.concatenate([block.norms() for block in blocks])

    def _block(self, batch: Batch, bar: tqdm) -> Block:
        output = output_of_layer(self.model, self.layer, batch.arguments)
        activations = as_positions(output, self.feature_axis, self.layer)
        n_inputs = batch.stop - batch.start
        if len(activations) != n_inputs:
            raise ValueError(
                f"layer={self.layer!r} gives {len(activations)} rows for {n_inputs} "
                "inputs: only layers whose first axis is that of the inputs will do."
            )
        bar.update(n_inputs)
        tokens = self._tokens(activations, batch.mask)
        # One vector for an input is at none of its positions.
        skip_first = self.skip_first if output.ndim > 2 else 0
        counting = self._counting(activations, tokens, skip_first)
        return Block(batch.start, activations, tokens, counting)

    def _tokens(
        self, activations: Tensor, mask: np.ndarray | None
    ) -> np.ndarray | None:
        n_positions = activations.shape[1]
        if mask is None or n_positions == 1:
            return None
        if mask.shape[1] != n_positions:
            raise ValueError(
                f"layer={self.layer!r} gives {n_positions} positions for "
                f"{mask.shape[1]} tokens: which of them are padding cannot be told. "
                "Give inputs of one length."
            )
        return mask

    def _counting(
        self, activations: Tensor, tokens: np.ndarray | None, skip_first: int
    ) -> np.ndarray | None:
        if not skip_first and self.max_norm is None:
            return tokens
        every = np.ones(activations.shape[:2], dtype=bool)
        mask = torch.from_numpy(every if tokens is None else tokens)
        numbers = numbers_of(mask.to(activations.device))
        return left_in(activations, numbers, skip_first, self.max_norm).cpu().numpy()

    def rows(
        self, inputs: Inputs, positions: str | int, sae=None
    ) -> tuple[np.ndarray | sparse.csr_array, np.ndarray]:
        """One row per input, or per position that counts.

        Parameters
        ----------
        inputs : Inputs
        positions : str or int
            See :func:`pool`.
        sae : fitted transformer, optional
            Codes activations before they are pooled.

        Returns
        -------
        rows : ndarray or CSR array
        lengths : ndarray of shape (n_inputs,), int
            Positions of each that count.
        """
        rows, n_done, parts, each = None, 0, [], []
        with self.blocks(inputs) as blocks:
            for block in blocks:
                each.append(block.lengths)
                part = block_rows(block, positions, sae)
                if part is None:
                    continue
                if sparse.issparse(part):
                    parts.append(part)
                    continue
                if rows is None:
                    shape = most_rows(inputs, positions, block), part.shape[1]
                    rows = np.empty(shape, part.dtype)
                rows[n_done : n_done + len(part)] = part
                n_done += len(part)
        lengths = np.concatenate(each)
        check_left(lengths, positions)
        if rows is None:
            return sparse.vstack(parts, format="csr"), lengths
        return rows[:n_done], lengths

    def rows_in_file(
        self, inputs: Inputs, positions: str | int, sae, out: RowFile
    ) -> np.memmap:
        """The same rows, but written to a file, or read if it is whole.

        Raises
        ------
        ValueError
            If `sae` gives sparse codes.
        """
        if not out.complete:
            n_inputs = 0
            with self.blocks(inputs, out.n_inputs) as blocks, out:
                for block in blocks:
                    n_inputs += len(block.activations)
                    part = block_rows(block, positions, sae)
                    if part is None:
                        continue
                    if sparse.issparse(part):
                        raise ValueError(
                            "out holds dense rows, but sae gives sparse codes: set its "
                            "sparse_output=False."
                        )
                    out.append(part, n_inputs)
                    n_inputs = 0
            check_left(np.array([out.n_rows]), positions)
            out.finish()
        return out.read()


def most_rows(inputs: Inputs, positions: str | int, block: Block) -> int:
    """How many rows all inputs give at most, as seen from one block of theirs."""
    n_positions = block.activations.shape[1]
    if positions != "all" or n_positions == 1:
        return len(inputs)
    lengths = inputs.lengths
    return len(inputs) * n_positions if lengths is None else int(lengths.sum())


def block_rows(block: Block, positions: str | int, sae):
    """Activations or codes of a block, pooled; dense or CSR; None if nothing counts."""
    lengths = block.lengths
    if positions == "all" and not lengths.any():
        return None
    check_left(lengths, positions, block.start)
    if sae is None:
        return block.pooled(positions)
    return code(block.pooled("all"), lengths, positions, sae)
