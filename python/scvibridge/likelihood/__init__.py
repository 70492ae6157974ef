"""The count likelihoods: quantiles, draws and the transform of observed counts."""
