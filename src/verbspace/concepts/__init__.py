"""Concept sets (actions and their descriptions) and the text-embedding spaces built from them."""
