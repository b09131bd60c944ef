"""Generation of concept descriptions with a language model."""
