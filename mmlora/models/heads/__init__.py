"""Heads."""

from .prototype_head import PrototypeHead, prototype_scores

__all__ = ['PrototypeHead', 'prototype_scores']
