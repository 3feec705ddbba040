"""What a chart takes from its data."""


def fields(spec):
    """Columns that a Vega spec encodes."""
    if isinstance(spec, list):
        return set().union(*map(fields, spec))
    if not isinstance(spec, dict):
        return set()
    own = {spec["field"]} if isinstance(spec.get("field"), str) else set()
    return own.union(*(fields(value) for name, value in spec.items() if name != "datasets"))
