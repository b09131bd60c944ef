"""The video encoder: an image CLIP with temporal attention."""
