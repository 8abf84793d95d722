"""How fast: steps of a stream, environment steps and samples a second."""
