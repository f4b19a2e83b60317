"""Which strategy, on how many machines: measured costs, predicted times, a ranking."""
