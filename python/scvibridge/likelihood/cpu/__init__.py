"""Numba kernels: random numbers, negative binomial tails and quantiles, sampling of counts."""
