"""Batch-corrected counts: requests, estimates and the mapping of counts."""
