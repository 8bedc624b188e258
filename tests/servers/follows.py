"""A check of values against the few keywords of JSON Schema that the runs use, apart from the one of the program."""

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
KNOWN = {
    "title", "type", "properties", "required", "additionalProperties",
    "items", "maxItems", "maxLength", "minimum", "maximum", "enum",
}


def follows(value, schema):
    if unknown := schema.keys() - KNOWN:
        raise ValueError(f"keywords that are not checked: {unknown}")
    kind = TYPES[schema["type"]]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if kind is dict:
        parts = schema["properties"]
        # The runs' objects are closed, and have all their properties.
        return value.keys() == parts.keys() and all(follows(value[name], parts[name]) for name in parts)
    if kind is list:
        return len(value) <= schema.get("maxItems", len(value)) and all(
            follows(element, schema["items"]) for element in value
        )
    if kind is str:
        return len(value) <= schema.get("maxLength", len(value))
    if kind is int:
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return True
