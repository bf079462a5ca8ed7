"""Load runs: many visits at once, counted and timed."""
