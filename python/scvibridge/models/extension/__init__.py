"""Add genes to a model."""
