"""The route to a target: its routers, hop by hop, and the largest packets that pass."""
