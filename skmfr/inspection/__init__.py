"""Figures of dictionaries, and pages of atoms to search and rate."""

from ._agreement import FeatureAgreementDisplay
from ._comparison import ComparisonDisplay
from ._dictionary import DictionaryDisplay
from ._reconstruction import ReconstructionDisplay
from ._report.ratings import ModelRating, RatingAgreement, rating_agreement
from ._report.reports import BlindedReport, Report, blinded_report, report
from ._similarity import SimilarityDisplay
from ._training import TrainingCurveDisplay, TrainingHistory

__all__ = [
    "BlindedReport",
    "ComparisonDisplay",
    "DictionaryDisplay",
    "FeatureAgreementDisplay",
    "ReconstructionDisplay",
    "ModelRating",
    "RatingAgreement",
    "Report",
    "SimilarityDisplay",
    "TrainingCurveDisplay",
    "TrainingHistory",
    "blinded_report",
    "rating_agreement",
    "report",
]
