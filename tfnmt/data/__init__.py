"""Text files, vocabularies and the batches made of them."""
