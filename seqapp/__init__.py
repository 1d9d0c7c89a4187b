"""Recurrent sequence models, from Keras to the edge."""

__version__ = "0.1.0"
