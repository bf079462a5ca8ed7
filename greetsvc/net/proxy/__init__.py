"""The PROXY protocol, versions 1 and 2: the header, and the factory that expects it."""
