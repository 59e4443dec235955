"""The block learner: a forward block with its twin, its auxiliary network, its local loss and its optimiser."""
