"""HTTP/1 in plaintext."""
