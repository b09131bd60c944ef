"""Lists of videos with their labels: folders, list files, annotation files of benchmarks, tar shards, URLs."""
