"""Normalized and denoised expression, and the depth and targets that corrections share with it."""
