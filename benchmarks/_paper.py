"""The authors' setting of mutual feature regularization (arXiv:2411.01220), restated.

The baseline called "paper" in every benchmark.  The decoder is the encoder's weights
with rows of unit norm; the k largest pre-activations are kept, whatever their sign;
there is no decoder bias; weights start orthogonal; Adam has its usual constants.
Gradients come from automatic differentiation of dense arrays, and atoms are matched on
the CPU at each step.  Their conditional reinitialisation is left out.
"""

from collections.abc import Iterator
from itertools import combinations, islice

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

LEARNING_RATE = 0.01
# Share of the steps over which the penalty rises.
WARM_UP = 0.05


class PaperSAE(torch.nn.Module):
    """One sparse autoencoder with tied weights."""

    def __init__(self, n_features: int, n_components: int, k: int):
        super().__init__()
        self.k = k
        self.weight = torch.nn.Parameter(torch.empty(n_components, n_features))
        self.bias = torch.nn.Parameter(torch.empty(n_components))
        torch.nn.init.orthogonal_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def encode(self, X: Tensor) -> Tensor:
        """Codes (n_samples, n_components), dense."""
        values, indices = torch.topk(X @ self.weight.T + self.bias, self.k, dim=1)
        codes = X.new_zeros(len(X), len(self.weight))
        return codes.scatter(1, indices, values)

    def atoms(self) -> Tensor:
        """(n_components, n_features), of unit norm."""
        return normalize(self.weight)


def dissimilarity(saes: list[PaperSAE]) -> Tensor:
    """Mean over pairs of 1 - cosine of the atoms matched one to one."""
    pairs = []
    for one, other in combinations(saes, 2):
        cosine = one.atoms() @ other.atoms().T
        matched = linear_sum_assignment(cosine.detach().numpy(), maximize=True)
        pairs.append(1 - cosine[matched].mean())
    return torch.stack(pairs).mean()


def train_paper(
    X: np.ndarray,
    n_components: int,
    k: int,
    *,
    n_saes: int = 1,
    alpha: float = 0.0,
    n_steps: int,
    batch_size: int,
    seed: int,
    learning_rate: float = LEARNING_RATE,
) -> list[PaperSAE]:
    """Train SAEs together on data of mean 0 and mean variance 1.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    n_components, k, n_saes : int
    alpha : float
        Weight of the penalty; the other term is the mean squared error, summed over the
        SAEs, which on such data is the fraction of variance unexplained.
    n_steps, batch_size : int
    seed : int
    learning_rate : float
        The default is what the authors use for synthetic data; for EEG, 1e-3.

    Returns
    -------
    list of PaperSAE
    """
    batches = islice(random_batches(X, batch_size, seed), n_steps)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        saes = [PaperSAE(X.shape[1], n_components, k) for _ in range(n_saes)]
        parameters = [parameter for sae in saes for parameter in sae.parameters()]
        optimiser = torch.optim.Adam(parameters, learning_rate)
        for step, batch in enumerate(batches):
            loss = torch.stack(
                [
                    (batch - sae.encode(batch) @ sae.atoms()).square().mean()
                    for sae in saes
                ]
            ).sum()
            if alpha > 0 and n_saes > 1:
                rise = min(1.0, (step + 1) / max(1, WARM_UP * n_steps))
                warm = (1 - np.cos(np.pi * rise)) / 2
                loss = loss + alpha * warm * dissimilarity(saes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return saes


def random_batches(X: np.ndarray, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of samples, drawn with replacement, without end."""
    draw = np.random.default_rng(seed)
    while True:
        yield torch.from_numpy(X[draw.integers(len(X), size=batch_size)])
