"""The encoder `otlp_log`: what the collector found, as OTLP log records."""
