"""Side by side: greetsvc as it is shipped, others that do the same, and a floor in C. `python -m bench` runs it."""
