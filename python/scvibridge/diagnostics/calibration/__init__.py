"""Check whether held-out counts follow the model."""
