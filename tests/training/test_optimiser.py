"""Adam on the sphere, against PyTorch's with projection and normalising around it."""

import pytest
import torch
from torch.nn.functional import normalize

import skmfr._training.optimiser
from skmfr._kernels import _torch
from skmfr._sae.ensemble import Ensemble
from skmfr._training.optimiser import BETAS, ENCODER_RATE, SphericalAdam

N_MEMBERS, N_COMPONENTS, N_FEATURES = 2, 5, 19


def random_numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_ensemble(tied, device="cpu"):
    atoms = normalize(random_numbers(N_MEMBERS, N_COMPONENTS, N_FEATURES), dim=2)
    ensemble = Ensemble.starting_from(atoms.to(device), tied)
    ensemble.encoder_bias += 0.1
    return ensemble


def random_gradients(optimiser, step):
    """One for each parameter."""
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    for number, parameter in enumerate(parameters):
        numbers = random_numbers(*parameter.shape, seed=100 * step + number)
        parameter.grad = numbers.to(parameter)
    return parameters


@pytest.mark.parametrize("tied", [False, True])
def test_steps_are_those_of_adam_on_tangents_with_atoms_normalised(tied):
    optimiser = SphericalAdam(random_ensemble(tied), 0.1)
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    assert len(parameters) == N_MEMBERS * (3 if tied else 4)
    atoms = [group["params"][group["on_sphere"]] for group in optimiser.param_groups]
    is_atoms = [any(each is other for other in atoms) for each in parameters]
    others = [each.clone() for each in parameters]
    # Atoms that are also the encoder follow the encoder's rate.
    factors = [1.0 if each or tied else ENCODER_RATE for each in is_atoms]
    adam = torch.optim.Adam([{"params": [each]} for each in others], betas=BETAS)
    for t in range(1, 6):
        optimiser.learning_rate = 0.1 / t
        for group, factor in zip(adam.param_groups, factors, strict=True):
            group["lr"] = factor * 0.1 / t
        random_gradients(optimiser, t)
        for parameter, other, on_sphere in zip(
            parameters, others, is_atoms, strict=True
        ):
            other.grad = parameter.grad.clone()
            if on_sphere:
                other.grad -= (other.grad * other).sum(1, keepdim=True) * other
        optimiser.descend()
        adam.step()
        for parameter, other, on_sphere in zip(
            parameters, others, is_atoms, strict=True
        ):
            if on_sphere:
                other.copy_(normalize(other, dim=1))
            torch.testing.assert_close(parameter, other, rtol=0, atol=1e-13)


def test_kernels_and_torch_may_take_turns(monkeypatch, kernels, device):
    """They keep the same of a parameter, so that one goes on where the other ended."""
    found = []
    for turns in [(kernels, kernels), (_torch, kernels), (kernels, _torch)]:
        ensemble = random_ensemble(tied=False, device=device)
        optimiser = SphericalAdam(ensemble, 0.1)
        for step, serving in enumerate(turns * 2):
            monkeypatch.setattr(
                skmfr._training.optimiser,
                "backend",
                lambda device, serving=serving: serving,
            )
            parameters = random_gradients(optimiser, step)
            optimiser.descend()
        kept = [optimiser.state[each] for each in parameters]
        assert all(int(each["step"]) == 4 for each in kept)
        moments = [each[name] for each in kept for name in ("exp_avg", "exp_avg_sq")]
        found.append([*parameters, *moments])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
