"""What an operator can set: one table of settings, and where their values come from."""
