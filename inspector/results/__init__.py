"""What a measurement returns: numbers with their meaning, and what made them.

Each result is a frozen dataclass that checks itself on construction, knows its `kind`, and goes to
and from JSON; NaN and infinity stand as null there. A result never holds tensors or models.
"""
