"""The Universal Transformer (Dehghani et al., 1807.03819)."""
