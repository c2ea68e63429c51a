"""Which latents separate two groups of images: statistics of every latent over many pairs of groups."""
