"""Translation with trained parameters: beam search, forced scoring, ensembles and averages."""
