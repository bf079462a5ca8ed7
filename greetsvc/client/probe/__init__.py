"""One probe of a target, step by step; series of probes, and flows."""
