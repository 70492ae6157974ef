"""Numba kernels: random numbers, negative binomial tails and quantiles, drawing of counts."""
