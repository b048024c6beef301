"""The collector of clouds: tells the reducer what the addresses of cloud accounts belong to."""
