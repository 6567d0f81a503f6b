"""Lines of a log that programs can read: `event key=value ...`, one for each event."""

import json


def fields(event: str, **values: object) -> str:
    """Text is quoted, as JSON, where it is empty or has spaces, quotes, `=` or what is not seen;
    seconds have three digits behind the point."""
    return " ".join([event, *(f"{key}={_value(value)}" for key, value in values.items())])


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
