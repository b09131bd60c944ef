"""Teach an image CLIP to understand actions in video, without labels."""
