"""The console scripts: each module's `main` turns flags into settings and calls the library."""
