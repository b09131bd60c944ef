"""Evaluation: zero-shot, linear probe and k-NN, each result with its protocol."""
