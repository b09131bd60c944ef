"""Words: concept sets, and the spaces that a text encoder makes of them."""
