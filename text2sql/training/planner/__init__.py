"""What a training run will cost, before anything is spent: parameters, memory by part, tokens, hours, money."""
