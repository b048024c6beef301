"""Tells the reducer what the addresses of a Kubernetes cluster are: pods and their owners, services, nodes."""
