"""A synthetic video data set, a small CLIP, and the demo: runs offline in minutes and serves the tests."""
