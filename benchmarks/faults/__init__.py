"""How faults are survived: time to recover, and long runs under kills."""
