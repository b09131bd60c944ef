"""Files to tensors: decoding, sampling plans, views, manifests and data sets."""
