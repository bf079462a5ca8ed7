"""More than one process: workers, and the next version beside this one."""
