"""Optimizers and learning rate schedules on flat parameter vectors."""
