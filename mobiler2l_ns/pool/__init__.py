"""Pseudo views and the batches the student learns from."""
