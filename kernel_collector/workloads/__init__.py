"""Who owns sockets: processes, and the containers and services that they are in."""
