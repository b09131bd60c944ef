"""Atomic files, text, malloc settings."""
