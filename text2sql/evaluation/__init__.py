"""How good a model is: generate, score, gate, report."""
