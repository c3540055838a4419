"""nearfar: train embedding models by contrast, prove the gain, and put them to use."""

__version__ = "0.1.0"
