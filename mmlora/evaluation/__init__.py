"""Metrics and the pure functions under them."""

from .episode_accuracy import EpisodeAccuracy, episode_accuracies
from .prototypes import mean_and_interval, prototype_accuracy

__all__ = ['EpisodeAccuracy', 'episode_accuracies', 'mean_and_interval', 'prototype_accuracy']
