"""Trained models: loading, encoding, decoding."""
