# The messages are made when the module is imported, and protobuf has no types of its own: so they are not checked.
from typing import Any

def __getattr__(name: str) -> Any: ...
