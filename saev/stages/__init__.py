"""One file per verb of the command line, each with one function run(cfg)."""
