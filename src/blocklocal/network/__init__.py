"""Neighbouring block learners: the whole network, its settings, and the checks of what it is given."""
