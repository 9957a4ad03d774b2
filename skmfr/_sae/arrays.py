"""Cache the coder of a fitted estimator, and pass arrays through it in blocks."""

from collections.abc import Callable, Iterator
from operator import is_
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .._data.sources import Source
from .._utils.ambient import undisturbed
from .._utils.checks import validate_parameters
from .._utils.devices import resolve_device
from .._utils.threads import computed_ahead, in_one_thread, without_its_threads
from .coder import Coder
from .codes import SparseCodes
from .ensemble import Ensemble

Result = TypeVar("Result")
# Fitted attributes, in the order of an ensemble's parameters.
WEIGHTS = ("encoder_weights_", "encoder_bias_", "components_", "decoder_bias_")
DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Scores of blocks that are coded at the same time, 1 GB in float32.
MOST_SCORES = 1 << 28

# The last coder of each estimator, and the settings that it was made for.  They are
# stored outside the estimators, so that pickles and copies exclude them.  There is no
# lock, because a fork could find it locked forever: if two threads come first at the
# same time, each makes a coder.
_coders: WeakKeyDictionary[Any, tuple[list[np.ndarray], tuple, Coder]] = (
    WeakKeyDictionary()
)


@undisturbed()
def coder_of(estimator, X: np.ndarray | Source | Tensor) -> Coder:
    """The coder of a fitted estimator, for data like X.

    It is made again when a weight is another array or a parameter has changed.

    Parameters
    ----------
    estimator : BaseSparseAutoencoder
    X : ndarray, Source or Tensor
        A tensor is coded on its own device, other data on that of the estimator.

    Raises
    ------
    InvalidParameterError
        If a parameter that coding depends on is not as described.
    ValueError
        If matching pursuit or TopK has no number of atoms.
    """
    counting = "k", "transform_algorithm", "positive_code", "device"
    validate_parameters(estimator, *counting)
    if isinstance(X, Tensor):
        device, dtype = str(X.device), X.dtype
    else:
        device = resolve_device(estimator.device, fall_back=True)
        dtype = DTYPES[X.dtype.name]
    weights = [getattr(estimator, name) for name in WEIGHTS]
    how = estimator.transform_algorithm, estimator.positive_code
    k, threshold = estimator.k, estimator.threshold_
    if how[0] != "omp":
        k, threshold = estimator._selection
    if threshold is not None:
        weights.append(threshold)
    check_k(k, threshold, how[0])
    # Python's numbers, because narrow ones of NumPy overflow.
    k = None if k is None else int(k)
    settings = k, *how, device, dtype
    if estimator in _coders:
        known_weights, known_settings, coder = _coders[estimator]
        if settings == known_settings and all(map(is_, weights, known_weights)):
            return coder
    tensors = [
        torch.tensor(array[None], dtype=dtype, device=device) for array in weights
    ]
    sae = Ensemble(*tensors[: len(WEIGHTS)])
    coder = Coder(sae, k, *how, None if threshold is None else tensors[-1][0])
    # A writable array may change without notice.
    if not any(array.flags.writeable for array in weights):
        _coders[estimator] = weights, settings, coder
    return coder


def check_k(
    k: int | None, threshold: np.ndarray | None, algorithm: str = "encoder"
) -> None:
    """Check that there is a number of active atoms where codes need one.

    Raises
    ------
    ValueError
        If matching pursuit or TopK has none.
    """
    if k is None and (threshold is None or algorithm == "omp"):
        what = "TopK" if threshold is None else "transform_algorithm='omp'"
        raise ValueError(f"k=None, but {what} needs the number of active atoms: set k.")


def coded_blocks(
    coder: Coder, X: np.ndarray | Source
) -> Iterator[tuple[np.ndarray, SparseCodes]]:
    """Blocks of samples with their codes, on the device of the coder."""
    return finished_blocks(coder, X, lambda block, codes: (block, codes))


def finished_blocks(
    coder: Coder,
    X: np.ndarray | Source,
    finish: Callable[[np.ndarray, SparseCodes], Result],
) -> Iterator[Result]:
    """Blocks of samples, each coded and passed to a function.

    On CPUs, each thread has blocks of its own if there are enough. Everything then
    uses all cores; inside of a block, only large products and kernels would.

    Parameters
    ----------
    coder : Coder
    X : ndarray or Source of shape (n_samples, n_features)
    finish : callable(block, codes) -> result
        Called in the thread of the block, with codes on the device of the coder.

    Yields
    ------
    result
        In the order of the blocks.
    """
    n_threads, n_rows = threads_and_rows(coder, len(X))
    # PyTorch warns of arrays that are read-only.
    blocks = (
        np.require(X[start : start + n_rows], requirements=["C", "W"])
        for start in range(0, len(X), n_rows)
    )

    def finished(block: np.ndarray) -> Result:
        return finish(block, coder(torch.from_numpy(block).to(coder.atoms.device)))

    def finished_in_one_thread(block: np.ndarray) -> Result:
        with in_one_thread():
            return finished(block)

    if n_threads == 1:
        yield from map(finished, blocks)
        return
    if not coder.has_coded:
        # Otherwise each thread would compute the Gram matrix of matching pursuit.
        yield finished(next(blocks))
    yield from computed_ahead(finished_in_one_thread, blocks, n_threads, n_threads + 1)


def threads_and_rows(coder: Coder, n_samples: int) -> tuple[int, int]:
    """Number of blocks to code at the same time, each in one thread, and their rows."""
    n_rows = coder.n_rows
    if coder.atoms.device.type != "cpu" or without_its_threads():
        return 1, n_rows
    n_threads = torch.get_num_threads()
    n_scores = n_threads * n_rows * len(coder.atoms)
    if n_samples < n_threads * n_rows // 2 or n_scores > MOST_SCORES:
        return 1, n_rows
    # As many blocks for each thread, of equal size.
    n_blocks = n_threads * -(-n_samples // (n_threads * n_rows))
    return n_threads, -(-n_samples // n_blocks)


def reconstructed_blocks(
    coder: Coder, X: np.ndarray | Source, kept: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of samples with their reconstructions.

    Parameters
    ----------
    coder : Coder
    X : ndarray or Source of shape (n_samples, n_features)
    kept : ndarray of shape (n_components,), bool, optional
        Atoms that take part; all by default.
    """
    chosen = None if kept is None else torch.tensor(kept, device=coder.atoms.device)

    def with_reconstruction(block: np.ndarray, codes: SparseCodes):
        if chosen is not None:
            codes = codes._replace(values=codes.values * chosen[codes.indices])
        return block, coder.decode(codes).cpu().numpy()

    return finished_blocks(coder, X, with_reconstruction)


def reconstruct(
    coder: Coder, X: np.ndarray | Source, kept: np.ndarray | None = None
) -> np.ndarray:
    """Reconstructions (n_samples, n_features), see :func:`reconstructed_blocks`."""
    X_hat, start = np.empty(X.shape, X.dtype), 0
    for block, reconstructed in reconstructed_blocks(coder, X, kept):
        X_hat[start : start + len(block)] = reconstructed
        start += len(block)
    return X_hat


def dense_codes(coder: Coder, X: np.ndarray | Source) -> np.ndarray:
    """Codes, (n_samples, n_components)."""
    dense, start = np.zeros((len(X), len(coder.atoms)), X.dtype), 0
    for block, codes in coded_blocks(coder, X):
        values, indices = (part.cpu() for part in codes)
        out = torch.from_numpy(dense[start : start + len(block)])
        # An inactive entry, which may name any atom, adds 0.
        out.scatter_add_(1, indices, values)
        start += len(block)
    return dense


def csr_codes(coder: Coder, X: np.ndarray | Source) -> sparse.csr_array:
    """Codes, (n_samples, n_components), with the atoms of each sample in order."""
    n_components = len(coder.atoms)

    def in_order_of_atoms(block: np.ndarray, codes: SparseCodes) -> sparse.csr_array:
        rows = as_csr(codes, n_components)
        rows.sort_indices()
        return rows

    blocks = list(finished_blocks(coder, X, in_order_of_atoms))
    return sparse.vstack(blocks, format="csr")


def as_csr(codes: SparseCodes, n_components: int) -> sparse.csr_array:
    """Nonzero codes of a block of samples, (n_samples, n_components)."""
    values, indices = (part.cpu().numpy() for part in codes)
    active = values != 0
    begins = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.count_nonzero(active, axis=1), out=begins[1:])
    if begins[-1] < values.size:
        values, indices = values[active], indices[active]
    return sparse.csr_array(
        (values.ravel(), indices.ravel().astype(np.int32), begins),
        shape=(len(active), n_components),
    )
