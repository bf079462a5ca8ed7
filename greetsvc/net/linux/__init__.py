"""Linux features that Python's socket module lacks: packet facts, the error queue, recvmmsg and sendmmsg."""
