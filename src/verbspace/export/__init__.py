"""Encoders as programs for other runtimes."""
