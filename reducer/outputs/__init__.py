"""Where the series of a window go: OTLP by way of a queue, and Prometheus."""
