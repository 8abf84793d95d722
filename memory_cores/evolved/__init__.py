"""The decoder of the Evolved Transformer (So et al., 1901.11117) without an encoder."""
