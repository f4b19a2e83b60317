"""The console scripts: each module's `main` turns flags into settings and calls the library."""

from tfnmt import runtime  # noqa: F401 - first of all, so that TensorFlow starts without its noise in every command
