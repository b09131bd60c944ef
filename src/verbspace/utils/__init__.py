"""Atomic files, text formatting, progress callbacks, and settings of CPU and memory."""
