"""TLS listeners whose certificates follow the files on disk."""
