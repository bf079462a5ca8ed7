"""The PROXY protocol, versions 1 and 2: the header, and a factory for connections that begin with one."""
