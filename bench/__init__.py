"""What the service costs, side by side with what else one could use: `make bench`."""
