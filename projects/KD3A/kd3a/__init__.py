"""Decentralised multi-source domain adaptation: data stays where it is, weights travel (KD3A)."""

from kd3a import networks, student
from kd3a.config import add_kd3a_config
from seriatim.config import extend_config

extend_config(add_kd3a_config)

__all__ = ["add_kd3a_config", "networks", "student"]
