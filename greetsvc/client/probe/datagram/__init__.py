"""Probes over datagrams."""
