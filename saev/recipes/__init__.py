"""Library functions that need the callbacks and datamodules of the clone: train, fit, linear probes."""
