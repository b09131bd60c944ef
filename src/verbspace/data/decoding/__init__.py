"""Video decoding with PyAV or torchcodec, and MP4 encoding."""
