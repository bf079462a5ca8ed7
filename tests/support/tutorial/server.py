"""What a socket tutorial teaches next: one visitor at a time, and no thought for what they send."""

import socket

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(5)
print("Server start at port:", listener.getsockname()[1], flush=True)
while True:
    visitor, address = listener.accept()
    print("Got a connection from", address, flush=True)
    visitor.send(b"Thank you for connecting")
    visitor.close()
