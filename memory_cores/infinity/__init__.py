"""The infinity-former (Martins et al., 2109.00301)."""
