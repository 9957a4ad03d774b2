"""Matching pursuit and least squares for batches of samples, in PyTorch operators.

They are used on GPUs, for dictionaries too large for a Gram matrix, and where Numba
does not run.  A sample has up to k atoms, its support, in k places. Their Gram matrix
and their products with the sample are float64, and computed only from the atoms and the
sample, in an order that does not depend on other samples.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .dense import block_size, lengths, linear, rounding, same_dot

# If the squared distance of an atom to the span of others is below this, the atom is
# dependent and is not used: the distance may be rounding error of products of atoms.
DEPENDENT = {torch.float32: 1e-5, torch.float64: 1e-12}
# Ridge, relative to atoms of norm 1, that keeps systems of equations solvable.  In
# float64 it is no more than noise.
RIDGE = 1e-12
# Residual that the ridge leaves for a sample of norm 1, too small for another atom.
NOTHING = 100 * RIDGE
# Number of atoms that a sample may try for each atom that it may keep.
TRIES = 3


def gram(atoms: Tensor) -> Tensor:
    """Products of all atoms with each other, in the form that `pursuit` needs."""
    return linear(atoms, atoms)


def pursuit(
    X: Tensor, atoms: Tensor, gram: Tensor | None, k: int, positive: bool
) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993).

    Each step adds the atom with the largest absolute product with the residual, and the
    residual is then that of least squares on the support.  A sample that is
    reconstructed up to rounding receives no more atoms, and no sample receives an atom
    that depends on its other atoms.  For positive coefficients, it is the algorithm of
    Lawson and Hanson (1974) for non-negative least squares, stopped when k atoms are in
    use.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    atoms : Tensor of shape (n_components, n_features)
        Atoms of unit norm.
    gram : Tensor, optional
        From :func:`gram`. Without it, each step computes products with all atoms.
    k : int
        At most n_components.
    positive : bool

    Returns
    -------
    values : Tensor of shape (n_samples, k)
        Coefficients, 0 where a sample uses fewer atoms.
    indices : Tensor of shape (n_samples, k), int64
    """
    n_samples, exact, X_exact = len(X), atoms.double(), X.double()
    of_samples = None if gram is None else linear(X, atoms)
    rows = torch.arange(n_samples, device=X.device)
    indices = torch.zeros(n_samples, k, dtype=torch.int64, device=X.device)
    active = torch.zeros(n_samples, k, dtype=torch.bool, device=X.device)
    taken = X.new_zeros(n_samples, len(atoms), dtype=torch.bool)
    system = X_exact.new_zeros(n_samples, k, k)
    products = X_exact.new_zeros(n_samples, k)
    values = X_exact.new_zeros(n_samples, k)
    sizes = lengths(X)
    nothing = (rounding(X) + NOTHING) * sizes
    nearest, running = torch.ones_like(sizes), torch.ones_like(active[:, 0])
    for _ in range(TRIES * k):
        coarse = values.to(X.dtype)
        if gram is None or of_samples is None:
            left = X - embedding_bag(
                indices, atoms, mode="sum", per_sample_weights=coarse
            )
            scores = linear(left, atoms)
        else:
            scores = of_samples - embedding_bag(
                indices, gram, mode="sum", per_sample_weights=coarse
            )
        scores = scores if positive else scores.abs_()
        scores = scores.masked_fill_(taken, 0.0)
        # Rounding errors grow as atoms come close to each other.
        margin = rounding(X) * (sizes + values.abs().sum(1)) / nearest.sqrt()
        best, atom = _largest(
            scores, margin, running, X_exact, exact, indices, values, positive
        )
        running = running & (best > nothing)
        if not running.any():
            break
        slot = (~active).int().argmax(1)
        taken[rows[running], atom[running]] = True
        # The new atom's distance to the span of the others.
        cosines = same_dot(exact[atom], exact, indices) * active
        along = _solution(system, cosines, active)
        apart = 1 + RIDGE - (along * cosines).sum(1)
        useful = rows[running & (apart > DEPENDENT[X.dtype])]
        nearest[useful] = nearest[useful].minimum(apart[useful])
        new, place = atom[useful], slot[useful]
        indices[useful, place] = new
        system[useful, place] = cosines[useful]
        system[useful, :, place] = cosines[useful]
        system[useful, place, place] = same_dot(exact[new], exact, new[:, None])[:, 0]
        own = same_dot(X_exact[useful], exact, new[:, None])
        products[useful, place] = own[:, 0]
        active[useful, place] = True
        before = active
        values, active = _least_squares(system, products, active, values, positive)
        # Atoms that left may return, unless they left as soon as they entered.
        gone = before & ~active
        gone[useful, place] = False
        where, what = gone.nonzero(as_tuple=True)
        taken[where, indices[where, what]] = False
        running = running & (active.sum(1) < k)
    return values.to(X.dtype), indices


def least_squares(
    X: Tensor,
    atoms: Tensor,
    indices: Tensor,
    used: Tensor,
    apart: float,
    positive: bool,
) -> Tensor:
    """Least-squares coefficients of each sample for its own selection of atoms.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    atoms : Tensor of shape (n_components, n_features)
        Atoms of unit norm.
    indices : Tensor of shape (n_samples, k), int64
    used : Tensor of shape (n_samples, k), bool
        Atoms to use; the others get 0.
    apart : float
        Atoms whose squared distance to the span of the atoms before them is at most
        this also get 0.
    positive : bool
        Whether coefficients are constrained to be non-negative.

    Returns
    -------
    Tensor of shape (n_samples, k)
    """
    n_rows = max(1, block_size(X.device) // max(1, indices.shape[1] * X.shape[1]))
    if len(X) > n_rows:
        parts = zip(*(part.split(n_rows) for part in (X, indices, used)), strict=True)
        return torch.cat(
            [
                least_squares(own, atoms, chosen, kept, apart, positive)
                for own, chosen, kept in parts
            ]
        )
    chosen = atoms[indices].double()
    system = chosen @ chosen.mT
    products = (chosen @ X.double().unsqueeze(2)).squeeze(2)
    allowed = _independent(system, used, apart)
    values = torch.zeros_like(products)
    if not positive:
        return _least_squares(system, products, allowed, values, False)[0].to(X.dtype)
    rows = torch.arange(len(X), device=X.device)
    nothing = NOTHING * lengths(X)
    active = torch.zeros_like(allowed)
    for _ in range(TRIES * indices.shape[1]):
        gradient = products - (system @ values.unsqueeze(2)).squeeze(2)
        best, slot = gradient.masked_fill(~allowed | active, 0.0).max(1)
        running = best > nothing
        if not running.any():
            break
        active = active.clone()
        active[rows[running], slot[running]] = True
        values, active = _least_squares(system, products, active, values, True)
        # An atom that left as soon as it entered would enter again.
        refused = running & ~active[rows, slot]
        allowed[rows[refused], slot[refused]] = False
    return values.to(X.dtype)


def _largest(
    scores: Tensor,
    margin: Tensor,
    running: Tensor,
    X: Tensor,
    atoms: Tensor,
    indices: Tensor,
    values: Tensor,
    positive: bool,
) -> tuple[Tensor, Tensor]:
    """The largest score of each sample; among nearly equal ones, decided in float64."""
    best, atom = scores.max(1)
    close = scores >= (best - margin).unsqueeze(1)
    counts = close.sum(1)
    unsure = (running & (best > 0) & (counts > 1)).nonzero()[:, 0]
    if len(unsure):
        n_close = int(counts[unsure].max())
        # Among equal scores, take the first in the order of the atoms.
        order = close[unsure].int().sort(dim=1, descending=True, stable=True).indices
        candidates = order[:, :n_close]
        decoded = embedding_bag(
            indices[unsure], atoms, mode="sum", per_sample_weights=values[unsure]
        )
        products = same_dot(X[unsure] - decoded, atoms, candidates)
        products = products if positive else products.abs()
        rivals = close[unsure].gather(1, candidates)
        # torch.max may return any of several equal scores.
        products = products.masked_fill(~rivals, -torch.inf)
        is_best = products == products.max(1, keepdim=True).values
        place = is_best.int().sort(dim=1, descending=True, stable=True).indices[:, :1]
        atom[unsure] = candidates.gather(1, place)[:, 0]
    return best, atom


def _independent(system: Tensor, used: Tensor, apart: float) -> Tensor:
    """Atoms in use whose squared distance to the span of those before exceeds `apart`.

    Parameters
    ----------
    system : Tensor of shape (n_samples, k, k)
    used : Tensor of shape (n_samples, k), bool
    apart : float
    """
    system, used = system.clone(), used.clone()
    for step in range(used.shape[1]):
        left = system[:, step, step]
        used[:, step] &= left > apart
        factor = torch.where(used[:, step], left, torch.inf).rsqrt()
        along = system[:, step] * factor.unsqueeze(1)
        system -= along.unsqueeze(1) * along.unsqueeze(2)
    return used


def _least_squares(
    system: Tensor, products: Tensor, active: Tensor, values: Tensor, positive: bool
) -> tuple[Tensor, Tensor]:
    """Coefficients of active atoms, and which are still active.

    Positive coefficients start from feasible values: the inner loop of Lawson and
    Hanson.
    """
    found = _solution(system, products, active)
    while positive:
        negative = active & (found <= 0)
        rows = negative.any(1).nonzero()[:, 0]
        if len(rows) == 0:
            break
        old, new, negative = values[rows], found[rows], negative[rows]
        way = torch.where(negative, old / (old - new), torch.inf)
        # A new atom starts at 0.
        way = way.nan_to_num(0.0, posinf=torch.inf)
        step, first = way.min(1, keepdim=True)
        old = (old + step * (new - old)).scatter_(1, first, 0.0)
        old = old.clamp_(min=0.0) * active[rows]
        values = values.index_copy(0, rows, old)
        active = active.index_copy(0, rows, active[rows] & (old > 0))
        again = _solution(system[rows], products[rows], active[rows])
        found = found.index_copy(0, rows, again)
    return found, active


def _solution(system: Tensor, products: Tensor, active: Tensor) -> Tensor:
    """Solve the equations of active atoms; the others get 0."""
    pairs = active.unsqueeze(2) & active.unsqueeze(1)
    system = torch.where(pairs, system, 0.0)
    system.diagonal(dim1=1, dim2=2).add_(RIDGE).masked_fill_(~active, 1.0)
    factor = torch.linalg.cholesky(system)
    products = torch.where(active, products, 0.0).unsqueeze(2)
    return torch.cholesky_solve(products, factor).squeeze(2)
