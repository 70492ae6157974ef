"""From a trained scVI model to count and expression matrices that R's count-based tools can use."""

__version__ = "0.1.0"
