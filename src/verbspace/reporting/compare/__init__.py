"""Runs side by side: what was measured of each, how they were trained, and how training went."""
