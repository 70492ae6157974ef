"""Count likelihoods: quantiles, samples, and the transform of observed counts."""
