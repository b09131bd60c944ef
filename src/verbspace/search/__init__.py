"""Search in videos: an index of window embeddings in LanceDB, and text and example queries over it."""
