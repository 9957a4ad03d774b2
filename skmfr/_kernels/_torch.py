"""The kernels as PyTorch operators, for any device; the reference for the others."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torch.optim.adam import adam

from .batched import gram as gram
from .batched import least_squares as least_squares
from .batched import pursuit as pursuit

# PyTorch warns once per process that its CSR tensors may still change.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.zeros(1, 1).to_sparse_csr()


def residual_products(
    X: Tensor, values: Tensor, indices: Tensor, dictionary: Tensor
) -> tuple[Tensor, Tensor]:
    """Residuals of samples, and their dot products with the atom of each code.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    values : Tensor of shape (n_samples, k)
    indices : Tensor of shape (n_samples, k), int64
    dictionary : Tensor of shape (n_components, n_features)

    Returns
    -------
    residual : Tensor of shape (n_samples, n_features)
    products : Tensor of shape (n_samples, k)
    """
    decoded = embedding_bag(
        indices.contiguous(), dictionary, mode="sum", per_sample_weights=values
    )
    residual = torch.sub(X, decoded, out=decoded)
    return residual, gather_dot(residual, dictionary, indices)


def gather_dot(X: Tensor, atoms: Tensor, indices: Tensor) -> Tensor:
    """Dot product of each sample with its own selection of atoms.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    atoms : Tensor of shape (n_components, n_features)
    indices : Tensor of shape (n_samples, k), int64

    Returns
    -------
    Tensor of shape (n_samples, k)
    """
    n_samples, k = indices.shape
    offsets = torch.arange(n_samples + 1, device=X.device) * k
    # Neither way stores the gathered atoms, which are n_samples * k * n_features
    # numbers: entries of a sampled matrix product, and the backward pass of
    # `embedding_bag` for its weights, which on the CPU takes nearly twice as long.
    if X.device.type == "cpu":
        wanted = torch.sparse_csr_tensor(
            offsets,
            indices.flatten(),
            X.new_zeros(indices.numel()),
            (n_samples, len(atoms)),
            check_invariants=False,
        )
        dots = torch.sparse.sampled_addmm(wanted, X, atoms.T, beta=0.0).values()
    else:
        samples = torch.arange(n_samples, device=X.device).repeat_interleave(k)
        dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            X, atoms, indices.flatten().contiguous(), offsets[:-1], samples, 0
        )
    return dots.view_as(indices)


def bag_sums(
    X: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor, out: Tensor, add: bool
) -> None:
    """Weighted sums of rows.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_features)
    rows : Tensor of shape (n_entries,), int64
        Bag by bag.
    offsets : Tensor of shape (n_bags + 1,), int64
        First and last entry of each bag.
    weights : Tensor of shape (n_entries,)
    out : Tensor of shape (n_bags, n_features)
        Contiguous output.
    add : bool
        Whether to add the sums to the contents of `out`.
    """
    sums = embedding_bag(
        rows,
        X,
        offsets,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    if add:
        out.add_(sums)
    else:
        out.copy_(sums)


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest k scores of each row, unordered; any others in place of those <= 0.

    Parameters
    ----------
    scores : Tensor of shape (n_rows, n_columns)
    k : int

    Returns
    -------
    values : Tensor of shape (n_rows, k)
    indices : Tensor of shape (n_rows, k), int64
    """
    return torch.topk(scores, k, dim=1, sorted=False)


def adam_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    n_steps: Tensor,
    learning_rates: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    on_sphere: int,
    sources: Sequence[Sequence[Tensor]] | None = None,
) -> None:
    """One step of Adam (Kingma & Ba 2015, algorithm 1), one parameter on the sphere.

    For that parameter, the gradient is projected on the tangent space of the sphere,
    and the rows are normalised after the step.

    Parameters
    ----------
    parameters, gradients, means, squares : list of Tensor
        Each parameter has shape (n_rows, n_features) or (n_features,).  Parameters and
        the running means of gradients and their squares are changed; gradients may be.
    n_steps : Tensor of shape ()
        Number of steps of these parameters so far, including this one.
    learning_rates : sequence of float
        One for each parameter.
    betas : tuple of two float
    eps : float
    on_sphere : int
        Index of the parameter whose rows stay on the unit sphere.
    sources : parameters, means and squares, optional
        Values to start from, which are left unchanged. The other lists are then only
        written to.
    """
    if sources is not None:
        copy_all((parameters, means, squares), sources)
    atoms, gradient = parameters[on_sphere], gradients[on_sphere]
    along = torch.linalg.vecdot(gradient, atoms).unsqueeze(1)
    gradient.addcmul_(along, atoms, value=-1.0)
    columns = parameters, gradients, means, squares
    for number, rate in enumerate(learning_rates):
        of_one, gradient_of_one, mean, square = ([each[number]] for each in columns)
        adam(
            of_one,
            gradient_of_one,
            mean,
            square,
            max_exp_avg_sqs=[],
            # PyTorch counts this step itself.
            state_steps=[n_steps - 1],
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=rate,
            weight_decay=0.0,
            eps=eps,
            maximize=False,
        )
    atoms.div_(torch.linalg.vector_norm(atoms, dim=1, keepdim=True))


def copy_all(
    arrays: Sequence[Sequence[Tensor]], sources: Sequence[Sequence[Tensor]]
) -> None:
    """Copy lists of tensors into lists of tensors."""
    for to, of in zip(arrays, sources, strict=True):
        for array, source in zip(to, of, strict=True):
            array.copy_(source)
