"""Embeddings, predictions, timelines, calibration, explanations and suggested vocabularies."""
