"""One probe of a target, step by step; and series and flows of probes."""
