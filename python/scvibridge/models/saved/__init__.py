"""Read saved models without running code in them."""
