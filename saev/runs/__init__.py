"""The life of a run: directories, locks, resume, signals, sweeps and their status, result tables."""
