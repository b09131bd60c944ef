"""Concept descriptions written by a language model."""
