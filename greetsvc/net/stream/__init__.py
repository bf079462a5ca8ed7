"""The stream listener, its transport, and the reactor facade that puts Twisted's endpoints on it."""
