"""How well learned: figures of trained models and agents, beside those of peers."""
