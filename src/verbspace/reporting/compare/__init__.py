"""Comparison of runs: results, settings and training curves."""
