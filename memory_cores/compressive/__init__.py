"""The Compressive Transformer (Rae et al., 1911.05507)."""
