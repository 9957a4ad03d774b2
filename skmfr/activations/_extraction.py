"""Activations of one layer, batch by batch, and the rows made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from scipy import sparse
from torch import Tensor, nn
from tqdm import tqdm

from ._inputs import Batch, Inputs
from ._models import as_positions, evaluating, output_of_layer
from ._pooling import code, pool
from ._storage import RowFile


class Block(NamedTuple):
    """Activations of some consecutive inputs."""

    start: int
    """number of the first input"""
    activations: Tensor
    """(n_inputs, n_positions, width)"""
    mask: np.ndarray | None
    """(n_inputs, n_positions) bool, which positions count; None if all"""

    @property
    def lengths(self) -> np.ndarray:
        """Positions that count, (n_inputs,)."""
        n_inputs, n_positions, _ = self.activations.shape
        if self.mask is None:
            return np.full(n_inputs, n_positions)
        return self.mask.sum(1)

    def pooled(self, positions: str | int) -> np.ndarray:
        """See :func:`pool`; in float32 if the model has less."""
        half = self.activations.itemsize < 4
        activations = self.activations.float() if half else self.activations
        return pool(activations, self.mask, positions).cpu().numpy()


class Extraction(NamedTuple):
    """Which activations are wanted."""

    model: nn.Module
    layer: str
    feature_axis: int | None
    batch_size: int
    device: str | None
    verbose: int

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
        return Block(batch.start, activations, self._mask(activations, batch.mask))

    def _mask(self, activations: Tensor, mask: np.ndarray | None) -> np.ndarray | None:
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

    def rows(
        self, inputs: Inputs, positions: str | int, sae=None
    ) -> np.ndarray | sparse.csr_array:
        """One row per input, or per position.

        Parameters
        ----------
        inputs : Inputs
        positions : str or int
            See :func:`pool`.
        sae : fitted transformer, optional
            Codes activations before they are pooled.
        """
        rows, n_done, parts = None, 0, []
        with self.blocks(inputs) as blocks:
            for block in blocks:
                part = block_rows(block, positions, sae)
                if sparse.issparse(part):
                    parts.append(part)
                    continue
                if rows is None:
                    shape = n_rows(inputs, positions, block), part.shape[1]
                    rows = np.empty(shape, part.dtype)
                rows[n_done : n_done + len(part)] = part
                n_done += len(part)
        return sparse.vstack(parts, format="csr") if rows is None else rows

    def rows_in_file(
        self, inputs: Inputs, positions: str | int, sae, out: RowFile
    ) -> np.memmap:
        """The same, but written to a file, or read if it is whole.

        Raises
        ------
        ValueError
            If `sae` gives sparse codes.
        """
        if not out.complete:
            with self.blocks(inputs, out.n_inputs) as blocks, out:
                for block in blocks:
                    part = block_rows(block, positions, sae)
                    if sparse.issparse(part):
                        raise ValueError(
                            "out holds dense rows, but sae gives sparse codes: set its "
                            "sparse_output=False."
                        )
                    total = n_rows(inputs, positions, block)
                    out.append(part, len(block.activations), total)
            out.finish()
        return out.read()


def n_rows(inputs: Inputs, positions: str | int, block: Block) -> int:
    """How many rows all inputs give, as seen from one block of theirs."""
    n_positions = block.activations.shape[1]
    if positions != "all" or n_positions == 1:
        return len(inputs)
    lengths = inputs.lengths
    return len(inputs) * n_positions if lengths is None else int(lengths.sum())


def block_rows(block: Block, positions: str | int, sae):
    """Activations or codes of a block, pooled; dense or CSR."""
    if sae is None:
        return block.pooled(positions)
    return code(block.pooled("all"), block.lengths, positions, sae)
