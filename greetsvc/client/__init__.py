"""Asking for a greeting, and saying what the network did to it."""
