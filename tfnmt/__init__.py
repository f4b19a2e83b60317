"""tfnmt: neural machine translation on TensorFlow graphs, on one machine or many."""

__version__ = "0.1.0"
