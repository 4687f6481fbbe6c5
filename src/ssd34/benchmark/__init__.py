"""How fast models are: processes that take turns, LoadGen, the report."""
