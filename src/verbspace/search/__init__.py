"""Videos embedded once, window by window, and searched often."""
