"""The tasks of a TensorFlow cluster: their addresses, how they start, how they find each other, how they end."""
