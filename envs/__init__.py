"""Environments by their Gymnasium id, the synchronous vector of them, and our own memory tasks."""

from envs.advice import advice
from envs.entries import Entry, EpisodeStats, Fault, Transition
from envs.errors import EnvError, EnvFault
from envs.make import make, receivers
from envs.registration import names, register
from envs.spaces import Leaf, check_spaces, leaves
from envs.vector import EnvVector

register()

__all__ = [
    "Entry",
    "EnvError",
    "EnvFault",
    "EnvVector",
    "EpisodeStats",
    "Fault",
    "Leaf",
    "Transition",
    "advice",
    "check_spaces",
    "leaves",
    "make",
    "names",
    "receivers",
]
