"""What both ends of the wire share: columns, session, acknowledgement, spool, credentials."""
