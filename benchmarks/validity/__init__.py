"""Validate corrected counts: simulations with known truth, null checks, real cells."""
