"""Probes over streams."""
