"""Extract, explain and change the activations of neural networks."""

from ._extractor import ActivationExtractor
from ._features import (
    Contexts,
    LogitEffects,
    feature_table,
    logit_effects,
    top_contexts,
)
from ._interventions import ablate, steer
from ._loss import loss_recovered

__all__ = [
    "ActivationExtractor",
    "Contexts",
    "LogitEffects",
    "ablate",
    "feature_table",
    "logit_effects",
    "loss_recovered",
    "steer",
    "top_contexts",
]
