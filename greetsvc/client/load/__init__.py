"""Load runs: many probes at once, counted and timed."""
