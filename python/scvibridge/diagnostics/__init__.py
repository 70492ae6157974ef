"""Diagnostics: support, choice of a batch, damage, calibration and the report."""
