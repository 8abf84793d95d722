"""What the trainers of agents and of next-token models share: configuration, schedules, errors, weights, processes."""
