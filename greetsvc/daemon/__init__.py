"""The service as twistd runs it: options, settings, listeners and logs."""
