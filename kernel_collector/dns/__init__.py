"""The DNS: queries and answers, and what names meant."""
