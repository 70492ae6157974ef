"""Train scVI models."""
