"""Reinforcement-learning agents with memory: IMPALA actors, learner and evaluation."""
