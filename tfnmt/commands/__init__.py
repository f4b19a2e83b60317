"""The console scripts: each module's `main` turns flags into settings and calls the library."""

# First of all: Ctrl-C has its line from the beginning, and TensorFlow starts without its noise in every command.
from tfnmt import interruption, runtime  # noqa: F401
