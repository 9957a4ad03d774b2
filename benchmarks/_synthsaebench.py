"""SynthSAEBench, data and measures that others made: worlds of sae-lens, judged by it.

Chanin and Garriga-Alonso (2026), arXiv 2602.14687.  Features fire by Zipf's law, are
correlated, and form trees: a child fires only if its parent does, and alone of its
siblings.  The standard has 16,384 features in 768 dimensions.  Its published weights
are not used: ``synthsaebench-16k`` is made anew from its configuration.
``synthsaebench`` is an eighth of it, in 256 dimensions, for two cores.
"""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks._methods import OURS, Fitted, Problem, in_columns, ours, peer
from benchmarks._peers import LEARNING_RATES, Peer, quiet
from benchmarks._results import Row
from benchmarks._rivals import (
    changed,
    encoders_not_penalised,
    nested,
    shared_from_the_first_step,
)

if TYPE_CHECKING:
    from sae_lens.synthetic import SyntheticModel

N_JUDGED = 20_000
N_AT_ONCE = 2_000
KINDS = "topk", "batchtopk", "matryoshka"


class World(NamedTuple):
    n_features: int
    n_dimensions: int
    n_trees: int
    n_samples: int
    n_components: int
    k: int
    """about the mean number of active features among the n_components commonest"""
    n_steps: int


WORLDS = {
    "synthsaebench": World(2048, 256, 16, 200_000, 512, 8, 2000),
    "synthsaebench-16k": World(16_384, 768, 128, 1_000_000, 2048, 25, 1000),
}
BATCH_SIZE = 1024


def model_of(world: World, seed: int) -> "SyntheticModel":
    """The standard's configuration, in other sizes."""
    from sae_lens import synthetic

    return synthetic.SyntheticModel(
        synthetic.SyntheticModelConfig(
            num_features=world.n_features,
            hidden_dim=world.n_dimensions,
            firing_probability=synthetic.ZipfianFiringProbabilityConfig(
                exponent=0.5, max_prob=0.4, min_prob=5e-4
            ),
            hierarchy=synthetic.HierarchyConfig(
                total_root_nodes=world.n_trees,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
                scale_children_by_parent=True,
            ),
            orthogonalization=synthetic.OrthogonalizationConfig(num_steps=100, lr=3e-4),
            correlation=synthetic.LowRankCorrelationConfig(
                rank=25, correlation_scale=0.1
            ),
            mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
            std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(
                mean=0.5, std=0.5
            ),
            bias=0.5,
            seed=seed,
        )
    )


def samples(model: "SyntheticModel", n: int, seed: int) -> np.ndarray:
    """Samples of a world, (n, n_dimensions), float32."""
    torch.manual_seed(seed)
    X = np.empty((n, model.cfg.hidden_dim), np.float32)
    for begin in range(0, n, N_AT_ONCE):
        block = X[begin : begin + N_AT_ONCE]
        block[:] = model.sample(len(block)).numpy()
    return X


class Judged(nn.Module):
    """An SAE with the methods that ``eval_sae_on_synthetic_data`` calls."""

    def __init__(self, sae: Peer):
        super().__init__()
        self.sae = sae
        self.W_dec = torch.from_numpy(np.ascontiguousarray(sae.atoms))

    def encode(self, X: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.sae.encode(X.numpy()).toarray()).float()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec + torch.from_numpy(self.sae.decoder_bias).float()


def judge(sae: Peer, model: "SyntheticModel") -> dict[str, float]:
    """Their measures, on samples that no method trained on."""
    from sae_lens.synthetic import eval_sae_on_synthetic_data

    torch.manual_seed(10**6)
    found = eval_sae_on_synthetic_data(
        Judged(sae),
        model.feature_dict,
        model.activation_generator,
        num_samples=N_JUDGED,
        batch_size=N_AT_ONCE,
    )
    return {
        "MCC": found.mcc,
        "F1": found.classification.f1_score,
        "precision": found.classification.precision,
        "recall": found.classification.recall,
        "uniqueness": found.uniqueness,
        "L0": found.sae_l0,
        "FVU": 1 - found.explained_variance,
        "dead": found.dead_latents / len(sae.atoms),
        "seconds": sae.seconds,
    }


def methods() -> Iterator[tuple[str, Callable[[Problem, int], Fitted]]]:
    yield from OURS.items()
    yield "ours, encoders not penalised", changed(encoders_not_penalised, ours())
    for name, parameters in {"ours": {}, "ours, alpha=0": {"alpha": 0.0}}.items():
        shared = shared_from_the_first_step(**parameters)
        yield f"{name}, batchtopk from the first step", shared
        both = changed(nested, shared)
        yield f"{name}, nested, batchtopk from the first step", both
    for kind in KINDS:
        for rate in LEARNING_RATES["sae-lens"]:
            yield (
                f"sae-lens {kind}, lr={rate:g}",
                peer("sae-lens", rate, kind=kind),
            )


def compare(world: World, n_seeds: int, only: str) -> Iterator[Row]:
    """A row for each method; a world, samples and a start for each seed."""
    made = []
    for seed in range(n_seeds):
        with quiet():
            model = model_of(world, seed)
        X = samples(model, world.n_samples, seed)
        size = world.n_components, world.k, world.n_steps, BATCH_SIZE
        made.append((model, Problem(X, X[:0], None, *size)))
    for name, fit in methods():
        if re.search(only, name):
            rows = [
                judge(fit(problem, seed).sae, model)
                for seed, (model, problem) in enumerate(made)
            ]
            yield {"method": name} | in_columns(rows)
