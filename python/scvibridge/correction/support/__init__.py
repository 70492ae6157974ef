"""Determine which cells a target batch supports, from their neighbours in the latent space."""
