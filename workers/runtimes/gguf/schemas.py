"""JSON schemas as grammars in GBNF, by the converter of llama-cpp-python."""

from __future__ import annotations

import json

from llama_cpp import llama_grammar

from protocol.errors import BadRequest

LIMIT_BYTES = 64 * 1024


def to_grammar(schema: bytes) -> str:
    """Raises BadRequest. Nobody has checked the grammar yet."""
    if len(schema) > LIMIT_BYTES:
        raise BadRequest(f"The JSON schema has {len(schema):,} bytes; {LIMIT_BYTES:,} are the most.")
    try:
        read = json.loads(schema)
        if read == {}:
            read = {"type": "object"}
        return str(llama_grammar.json_schema_to_gbnf(json.dumps(read)))
    except RecursionError:
        raise BadRequest("The JSON schema is nested too deep.") from None
    except Exception as error:  # its converter raises whatever comes to hand
        raise BadRequest(f"The JSON schema cannot be made into a grammar: {type(error).__name__}: {error}") from error


def _repetition(
    item: str, least: int, most: int | None, separator_rule: str | None = None, item_rule_is_literal: bool = False
) -> str:
    """`item` so many times, in GBNF's own words: {least,most}."""
    if separator_rule is None:
        return item + _bounds(least, most)
    if most == 0:
        return ""
    others = f"{item} ({separator_rule} {item})" + _bounds(max(least - 1, 0), None if most is None else most - 1)
    return others if least > 0 else f"({others})?"


def _bounds(least: int, most: int | None) -> str:
    return f"{{{least:d},{'' if most is None else format(most, 'd')}}}"


# The converter's own writes every item that must be there, and what may be there as groups within groups: "at most 250"
# would be 250 deep, and "at least 30,000,000" hundreds of megabytes.
llama_grammar._build_repetition = _repetition
