"""What the network did, from what both ends saw: ICMP, the TCP handshake, loss by direction."""
