"""Types that a schema is made of: numbers and texts with bounds that no honest file reaches.

A figure that was measured may be unknown (null); it is never NaN or infinite. Tables and pictures can show every value
of these types. No `pattern` among them: msgspec 0.22.0 crashes over one inside a union.
"""

from typing import Annotated

from msgspec import Meta

MOST_BLOCKS = 10_000

Whole = Annotated[int, Meta(ge=0, le=10**12)]
"""A count."""
Seed = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Share = Annotated[float, Meta(ge=0, le=1.001)]
"""A sum of rounded parts may pass 1 by a hair."""
Number = Annotated[float, Meta(ge=-1e40, le=1e40)]
"""Any figure: what float32 can hold is smaller."""
Error = Annotated[float, Meta(ge=-1e300, le=1e300)]
"""How far predicted values are off, and R²: squared, where float32 is near its end."""
Text = Annotated[str, Meta(max_length=10_000)]
Name = Annotated[str, Meta(min_length=1, max_length=1_000)]

Scalar = int | Number | Text | bool | None
_Key = Annotated[str, Meta(max_length=1_000)]
_Most = Meta(max_length=1_000_000)
Setting = Scalar | Annotated[list[Scalar], _Most] | Annotated[dict[_Key, Scalar], _Most]
"""What a setting can be: lists and objects hold nothing that is nested."""
_Second = Scalar | Annotated[list[Setting], _Most] | Annotated[dict[_Key, Setting], _Most]
_Third = Scalar | Annotated[list[_Second], _Most] | Annotated[dict[_Key, _Second], _Most]
_Fourth = Scalar | Annotated[list[_Third], _Most] | Annotated[dict[_Key, _Third], _Most]
_Fifth = Scalar | Annotated[list[_Fourth], _Most] | Annotated[dict[_Key, _Fourth], _Most]
Plain = Scalar | Annotated[list[_Fifth], _Most] | Annotated[dict[_Key, _Fifth], _Most]
"""Any JSON of bounded depth."""
