"""Normalized and denoised expression, depth and targets."""
