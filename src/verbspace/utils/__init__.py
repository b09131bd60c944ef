"""Atomic files, text formatting, progress callbacks and memory allocation."""
