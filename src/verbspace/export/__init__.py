"""Export of encoders to ONNX and torch.export."""
