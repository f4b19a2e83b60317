"""The console scripts: each module's `main` turns flags into settings and calls the library."""

import sys
from pathlib import Path

# First of all: Ctrl-C has its line from the beginning, and TensorFlow starts without its noise in every command.
from tfnmt import interruption  # noqa: F401

# A corpus is prepared without TensorFlow, which would take more memory than what is known of 30 million pairs.
if Path(sys.argv[0]).stem != "tfnmt-corpus":
    from tfnmt import runtime  # noqa: F401
