"""From statistics and fits to the rows of the results: best latents, intervals, tables."""
