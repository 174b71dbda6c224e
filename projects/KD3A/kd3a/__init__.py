"""Decentralised multi-source domain adaptation: data stays where it is, weights travel (KD3A, ICML
2021)."""
