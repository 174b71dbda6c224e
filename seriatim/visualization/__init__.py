"""Pictures of data, of what the network gets, and of what it says. Nothing here imports torch by itself."""
