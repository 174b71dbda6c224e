"""Pictures of data, of what the network gets and of what it says. Drawing imports no torch."""
