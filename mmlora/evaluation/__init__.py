"""Metrics and the pure functions under them."""

from .agreement import BalancedAccuracy, CohenKappa, cohen_kappa, recalls
from .average_precision import MeanAveragePrecision, average_precision
from .detection_map import Boxes, DetectionMAP, detection_map
from .episode_accuracy import EpisodeAccuracy, episode_accuracies
from .paired import EpisodeScores, images_digest, paired_difference
from .predictions import ErrorPicture, KeepPredictions, Predictions
from .prototypes import mean_and_interval, prototype_accuracy
from .roc_auc import ROCAUC, roc_auc

__all__ = [
    'ROCAUC',
    'BalancedAccuracy',
    'Boxes',
    'CohenKappa',
    'DetectionMAP',
    'EpisodeAccuracy',
    'EpisodeScores',
    'ErrorPicture',
    'KeepPredictions',
    'MeanAveragePrecision',
    'Predictions',
    'average_precision',
    'cohen_kappa',
    'detection_map',
    'episode_accuracies',
    'images_digest',
    'mean_and_interval',
    'paired_difference',
    'prototype_accuracy',
    'recalls',
    'roc_auc',
]
