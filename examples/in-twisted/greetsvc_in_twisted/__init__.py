"""Three Twisted programs without twistd, each with other parts of greetsvc."""
