"""Which latent tells which class: statistics of all (latent, class) pairs from one pass, rankings and 1-D probes from them"""
