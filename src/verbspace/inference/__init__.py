"""Embeddings, predictions, timelines, calibration and explanations."""
