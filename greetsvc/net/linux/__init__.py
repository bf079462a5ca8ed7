"""What Linux tells and does beyond Python's socket module: packet facts, the error queue, recvmmsg and sendmmsg."""
