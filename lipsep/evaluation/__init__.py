"""Evaluation: metrics on one utterance, tables over many."""
