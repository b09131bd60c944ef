"""HTML pages and model cards: explanations, search results, comparisons of runs, charts."""
