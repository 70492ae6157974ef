"""Which cells a target batch supports, by their neighbours in the latent space."""
