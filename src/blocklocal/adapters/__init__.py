"""What must be known of other libraries' models: built by name, how they are called, and their inputs."""

from blocklocal.adapters.known import Usage, usage
from blocklocal.adapters.names import build_named, is_named

__all__ = ["Usage", "build_named", "is_named", "usage"]
