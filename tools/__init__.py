"""What measures the project; the commands here run by themselves, and share `runs`."""
