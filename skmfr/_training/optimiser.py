"""Adam on the unit sphere."""

from collections import defaultdict

import torch
from torch import Tensor

from .._kernels import backend
from .._sae.ensemble import Ensemble

# The gradients of an atom are sparse in time, so the usual 0.999 remembers too much of
# the first steps.
BETAS = (0.9, 0.99)
EPS = 1e-8
# Learning rate of encoders and biases, relative to that of atoms: faster encoders lose
# rare features.  Probably, noise in an encoder makes its atom active in the wrong
# samples, and an atom whose feature is rare has few right ones to correct this.  Noise
# in an atom does not change where it is active.
ENCODER_RATE = 1 / 3


class SphericalAdam:
    """Adam over the parameters of an ensemble, with atoms on the unit sphere.

    The gradient of an atom is projected on the tangent space of the sphere, and the
    atom is normalised after the step.  Each member is a group of parameters, so that it
    can be reinitialised alone.

    Not a `torch.optim.Optimizer`, whose first use imports PyTorch's compiler, which
    takes as long as PyTorch itself.
    """

    def __init__(self, ensemble: Ensemble, learning_rate: float):
        self.learning_rate = learning_rate
        """of atoms in the next step; untied encoders and biases have a part of it"""
        self.tied = ensemble.tied
        self.param_groups: list[dict] = []
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        """moments of each parameter, in PyTorch's format"""
        for i in range(len(ensemble)):
            parameters = [
                ensemble.encoder_bias[i],
                ensemble.decoder[i],
                ensemble.decoder_bias[i],
            ]
            if not ensemble.tied:
                parameters.insert(0, ensemble.encoder[i])
            # Atoms are the second-to-last parameter.
            on_sphere = len(parameters) - 2
            self.param_groups.append({"params": parameters, "on_sphere": on_sphere})
        self.sources: list[tuple[list[Tensor], ...]] | None = None
        """for each group, other arrays from which the next step starts"""

    def descend(self) -> None:
        """Take one step; gradients of atoms need not be tangent, and may be changed."""
        sources, self.sources = self.sources, None
        for i, group in enumerate(self.param_groups):
            parameters = group["params"]
            moments = [self._moments(parameter) for parameter in parameters]
            torch._foreach_add_([each["step"] for each in moments], 1)
            part = 1.0 if self.tied else ENCODER_RATE
            rates = [part * self.learning_rate] * len(parameters)
            rates[group["on_sphere"]] = self.learning_rate
            backend(parameters[0].device).adam_step(
                parameters,
                [parameter.grad for parameter in parameters],
                [each["exp_avg"] for each in moments],
                [each["exp_avg_sq"] for each in moments],
                moments[0]["step"],
                rates,
                BETAS,
                EPS,
                group["on_sphere"],
                sources and sources[i],
            )

    def on_copies_of(self, former: "SphericalAdam") -> None:
        """Continue from another optimiser, whose arrays do not change; share gradients.

        Parameters and moments receive their values in the next step, which reads the
        other's arrays anyway.
        """
        self.sources = []
        pairs = zip(former.param_groups, self.param_groups, strict=True)
        for group, own_group in pairs:
            moments = [former._moments(parameter) for parameter in group["params"]]
            of = zip(group["params"], moments, own_group["params"], strict=True)
            for parameter, each, own in of:
                own.grad = parameter.grad
                self.state[own] = {
                    "step": each["step"].clone(),
                    "exp_avg": torch.empty_like(each["exp_avg"]),
                    "exp_avg_sq": torch.empty_like(each["exp_avg_sq"]),
                }
            means, squares = (
                [each[name] for each in moments] for name in ("exp_avg", "exp_avg_sq")
            )
            self.sources.append((group["params"], means, squares))

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Those of a parameter, which begin at 0."""
        moments = self.state[parameter]
        if not moments:
            moments["step"] = parameter.new_zeros((), dtype=torch.float32)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        return moments
