"""Measuring encoders: zero-shot, linear probe, k-NN, each with its protocol beside the numbers."""
