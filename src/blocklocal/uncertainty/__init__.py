"""How sure a network is, and how well that fits what it gets right."""
