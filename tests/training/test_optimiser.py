"""Adam on the sphere, against its definition."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import skmfr._training.optimiser
from skmfr._sae.ensemble import Ensemble
from skmfr._training.optimiser import BETAS, SphericalAdam, project_to_tangent_

N_MEMBERS, N_COMPONENTS, N_FEATURES = 2, 5, 19
# Single numbers go through some ten roundings a step, of 6e-8 or 1e-16.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


def random_numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=["kernels", "torch"])
def serving(request, kernels, monkeypatch):
    """Kernels, or PyTorch's operators in their place."""
    chosen = kernels if request.param == "kernels" else None
    monkeypatch.setattr(skmfr._training.optimiser, "kernels_on", lambda device: chosen)


def random_ensemble(tied, dtype=torch.float64, device="cpu"):
    atoms = normalize(random_numbers(N_MEMBERS, N_COMPONENTS, N_FEATURES), dim=2)
    ensemble = Ensemble.starting_from(atoms.to(device, dtype), tied)
    ensemble.encoder_bias += 0.1
    return ensemble


def random_gradients(optimiser, step):
    """One for each parameter; the last feature never has any."""
    parameters = [each for group in optimiser.param_groups for each in group["params"]]
    for number, parameter in enumerate(parameters):
        numbers = random_numbers(*parameter.shape, seed=100 * step + number)
        numbers[..., -1] = 0.0
        parameter.grad = numbers.to(parameter)
    return parameters


class Definition:
    """Kingma & Ba 2015, algorithm 1, on a parameter of its own, in float64."""

    def __init__(self, parameter, on_sphere):
        self.value = parameter.cpu().double().numpy().copy()
        self.on_sphere = on_sphere
        self.mean = self.square = 0.0

    def step(self, gradient, t, learning_rate):
        gradient = gradient.cpu().double().numpy()
        if self.on_sphere:
            along = (gradient * self.value).sum(1, keepdims=True)
            gradient = gradient - along * self.value
        beta, gamma = BETAS
        self.mean = beta * self.mean + (1 - beta) * gradient
        self.square = gamma * self.square + (1 - gamma) * gradient**2
        mean = self.mean / (1 - beta**t)
        square = self.square / (1 - gamma**t)
        self.value -= learning_rate * mean / (np.sqrt(square) + 1e-8)
        if self.on_sphere:
            self.value /= np.linalg.norm(self.value, axis=1, keepdims=True)


@pytest.mark.usefixtures("serving", "n_threads")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tied", [False, True])
def test_steps_are_those_of_the_definition(tied, dtype, device):
    ensemble = random_ensemble(tied, dtype, device)
    optimiser = SphericalAdam(ensemble, 0.1)
    decoders = {atoms.data_ptr() for atoms in ensemble.decoder}
    definitions = None
    for t in range(1, 6):
        rate = 0.1 / t
        parameters = random_gradients(optimiser, t)
        if definitions is None:
            definitions = [
                Definition(each, each.data_ptr() in decoders) for each in parameters
            ]
            assert len(definitions) == N_MEMBERS * (3 if tied else 4)
            assert sum(each.on_sphere for each in definitions) == N_MEMBERS
        for each, parameter in zip(definitions, parameters, strict=True):
            each.step(parameter.grad, t, rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.descend()
        for each, parameter in zip(definitions, parameters, strict=True):
            np.testing.assert_allclose(
                parameter.cpu(), each.value, rtol=0, atol=TOLERANCE[dtype]
            )


def test_kernels_and_torch_may_take_turns(monkeypatch, kernels, device):
    """They keep the same of a parameter, so that one goes on where the other ended."""
    found = []
    for turns in [(kernels, kernels), (None, None), (kernels, None), (None, kernels)]:
        ensemble = random_ensemble(tied=False, device=device)
        optimiser = SphericalAdam(ensemble, 0.1)
        for step, serving in enumerate(turns * 2):
            monkeypatch.setattr(
                skmfr._training.optimiser,
                "kernels_on",
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


def test_projection_is_tangent_and_leaves_tangents_alone():
    atoms = normalize(random_numbers(9, 5, seed=1), dim=1)
    gradient = random_numbers(9, 5, seed=2)
    along = (gradient * atoms).sum(1, keepdim=True)
    tangent = project_to_tangent_(gradient.clone(), atoms)
    torch.testing.assert_close(tangent, gradient - along * atoms)
    again = project_to_tangent_(tangent.clone(), atoms)
    torch.testing.assert_close(again, tangent, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("serving")
def test_a_gradient_whose_square_overflows_stops_what_it_belongs_to(device):
    ensemble = random_ensemble(tied=False, dtype=torch.float32, device=device)
    optimiser = SphericalAdam(ensemble, 0.1)
    encoders = ensemble.encoder.clone()
    for step in range(3):
        parameters = random_gradients(optimiser, step)
        if step == 0:
            parameters[0].grad[2, 3] = 1e25
        optimiser.descend()
    assert ensemble.encoder[0, 2, 3] == encoders[0, 2, 3]
    for parameter in parameters:
        assert parameter.isfinite().all()
