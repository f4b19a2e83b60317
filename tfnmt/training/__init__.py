"""The training loop: what is watched, when it ends, what is kept."""
