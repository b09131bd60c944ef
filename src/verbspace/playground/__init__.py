"""A small generated world and a small CLIP: the offline default and the test bed."""
