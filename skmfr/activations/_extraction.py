"""Activations of one layer, batch by batch, and the rows made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from torch import Tensor, nn
from tqdm import tqdm

from ._inputs import Inputs
from ._models import as_positions, evaluating, output_of_layer
from ._pooling import pool, pool_codes
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
        rows = pool(self.activations, self.mask, positions)
        return (rows.float() if rows.itemsize < 4 else rows).cpu().numpy()


class Extraction(NamedTuple):
    """Which activations are wanted."""

    model: nn.Module
    layer: str
    feature_axis: int | None
    batch_size: int
    device: str | None
    verbose: int

    def blocks(self, inputs: Inputs, start: int = 0) -> Iterator[Block]:
        """Activations of all inputs from one on.

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
            for first, arguments, mask in inputs.batches(
                self.model, self.batch_size, start
            ):
                output = output_of_layer(self.model, self.layer, arguments)
                activations = as_positions(output, self.feature_axis, self.layer)
                yield Block(first, activations, self._mask(activations, mask))
                bar.update(len(activations))

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
        self, inputs: Inputs, positions: str | int, sae=None, out: RowFile | None = None
    ) -> np.ndarray | sparse.csr_array:
        """One row per input, or per position.

        Parameters
        ----------
        inputs : Inputs
        positions : str or int
            See :func:`pool`.
        sae : fitted transformer, optional
            Codes activations before they are pooled.
        out : RowFile, optional
            Where to write the rows.
        """
        if out is not None and out.complete:
            return out.read()
        start = 0 if out is None else out.n_inputs
        rows, n_done, parts = None, 0, []
        try:
            for block in self.blocks(inputs, start):
                part = block_rows(block, positions, sae)
                n_inputs = len(block.activations)
                if out is not None:
                    out.append(part, n_inputs, n_rows(inputs, positions, block))
                elif sparse.issparse(part):
                    parts.append(part)
                else:
                    if rows is None:
                        shape = n_rows(inputs, positions, block), part.shape[1]
                        rows = np.empty(shape, part.dtype)
                    rows[n_done : n_done + len(part)] = part
                    n_done += len(part)
        finally:
            if out is not None and not out.complete:
                out.write_note()
        if out is not None:
            out.finish()
            return out.read()
        return sparse.vstack(parts, format="csr") if rows is None else rows


def n_rows(inputs: Inputs, positions: str | int, block: Block) -> int:
    """How many rows all inputs give, as seen from one block of theirs."""
    n_positions = block.activations.shape[1]
    if positions != "all" or n_positions == 1:
        return len(inputs)
    return inputs.n_positions or len(inputs) * n_positions


def block_rows(block: Block, positions: str | int, sae) -> Any:
    """Activations or codes of a block, pooled; dense or CSR."""
    if sae is None:
        return block.pooled(positions)
    if positions not in ("mean", "max"):
        codes = sae.transform(block.pooled(positions))
        return codes if sparse.issparse(codes) else np.asarray(codes)
    codes = sae.transform(block.pooled("all"))
    pooled = pool_codes(sparse.csr_array(codes), block.lengths, str(positions))
    return pooled if sparse.issparse(codes) else pooled.toarray()
