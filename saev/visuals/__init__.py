"""Looking at dictionaries: the results table, plots, top images with patch heat maps, and the page that holds them."""
