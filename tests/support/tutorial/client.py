"""What a socket tutorial teaches first: connect, read once, print. Usage: client.py HOST PORT."""

import socket
import sys

peer = socket.socket()
peer.connect((sys.argv[1], int(sys.argv[2])))
print(peer.recv(1024).decode(), end="")
peer.close()
