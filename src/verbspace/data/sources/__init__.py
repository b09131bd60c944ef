"""Where videos and labels come from: annotation formats, shards, storage."""
