"""What an adapted encoder is for: predictions, reports, the demo."""
