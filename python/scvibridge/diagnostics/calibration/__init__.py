"""Whether held-out counts follow the model."""
