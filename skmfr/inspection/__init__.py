"""Pictures of dictionaries, of how far to trust them, and of how they were learned."""

from ._agreement import FeatureAgreementDisplay
from ._dictionary import DictionaryDisplay
from ._reconstruction import ReconstructionDisplay
from ._similarity import SimilarityDisplay
from ._training import TrainingCurveDisplay, TrainingHistory

__all__ = [
    "DictionaryDisplay",
    "FeatureAgreementDisplay",
    "ReconstructionDisplay",
    "SimilarityDisplay",
    "TrainingCurveDisplay",
    "TrainingHistory",
]
