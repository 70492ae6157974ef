"""The version of the package, in both languages."""

__version__ = "0.99.0"
