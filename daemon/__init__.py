"""What the daemons share as programs: options, logs, errors, signals."""
