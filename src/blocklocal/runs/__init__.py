"""A run and its folder: from a configuration to a trained network, and back from the folder to a network."""
