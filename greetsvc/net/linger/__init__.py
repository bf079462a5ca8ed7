"""Lingering close: a socket that sent its FIN waits, in bounded time, for its peer to finish."""
