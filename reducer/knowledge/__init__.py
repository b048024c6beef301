"""What collectors told of owners of sockets and of addresses, and when it was so."""
