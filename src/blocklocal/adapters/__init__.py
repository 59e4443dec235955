"""What must be known of other libraries' models: how they are called, and what an input looks like."""

from blocklocal.adapters.known import Usage, usage

__all__ = ["Usage", "usage"]
