"""Lingering close: a socket that has sent its FIN waits, in bounded time, for its peer to close too."""
