"""Where a strategy runs: an engine turns a row, a model and an input into a stream of reports."""
