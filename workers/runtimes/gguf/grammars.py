"""What must be known of a grammar before llama.cpp may see it: its parser takes every nesting for a call, so a deep one
ends the process, rules that lead to one another in many ways keep it busy for hours, and it writes out repetitions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from protocol.errors import BadRequest

LIMIT_BYTES = 256 * 1024
DEEPEST = 200
MOST_WAYS = 4000
MOST_RULES = 20_000
MOST_TIMES = 2000  # llama.cpp's own limit
MOST_REPEATED = 100_000  # characters and names in all repetitions, written out
TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
      | (?P<begin>(?P<name>[A-Za-z0-9_-]+)\s*::=)
      | (?P<rule>[A-Za-z0-9_-]+)
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<letters>\[(?:[^\]\\]|\\.)*\])
      | (?P<token>!?<[^>]*>)
      | (?P<any>\.)
      | (?P<open>\()
      | (?P<close>\))
      | (?P<or>\|)
      | (?P<repeat>[*+?]|\{[^}]*\})""",
    re.VERBOSE | re.DOTALL,
)
BOUNDS = re.compile(r"\{\s*(?P<least>\d{1,20})\s*(?:,\s*(?P<most>\d{1,20})?\s*)?\}")


@dataclass
class Element:
    rule: str | None = None  # None: letters
    may_be_missing: bool = False
    size: int = 1  # with all its repetitions
    times: int = 1


@dataclass
class Rule:
    ways: list[list[Element]] = field(default_factory=lambda: [[]])


def check(grammar: str, what: str) -> None:
    """Raises BadRequest for what llama.cpp must not see. What it refuses by itself may pass."""
    if len(grammar.encode()) > LIMIT_BYTES:
        raise BadRequest(f"{what} is longer than {LIMIT_BYTES:,} bytes.")
    if "\0" in grammar or not grammar.strip():
        raise BadRequest(f"{what} is empty, or has a zero byte.")
    rules = _read(grammar, what)
    if len(rules) > MOST_RULES:
        raise BadRequest(f"{what} has more than {MOST_RULES:,} rules and groups.")
    missing = _may_be_empty(rules)
    if (most := max(_ways(rules, missing).values(), default=0)) > MOST_WAYS:
        raise BadRequest(
            f"{what} can go on in {most:,} ways at one place; {MOST_WAYS:,} are the most. Make it simpler."
        )


def _read(grammar: str, what: str) -> dict[str, Rule]:
    """Groups become rules of their own."""
    rules: dict[str, Rule] = {}
    open_rules: list[Rule] = [Rule()]
    at = repeated = 0
    while at < len(grammar):
        found = TOKEN.match(grammar, at)
        if found is None:
            line = grammar.count("\n", 0, at) + 1
            raise BadRequest(
                f"{what} does not parse: nothing in GBNF begins with {grammar[at : at + 20]!r}, line {line}."
            )
        at = found.end()
        kind, way = found.lastgroup, open_rules[-1].ways[-1]
        if kind in ("begin", "name"):
            rules[found["name"]] = Rule()
            open_rules = [rules[found["name"]]]
        elif kind == "open":
            if len(open_rules) > DEEPEST:
                raise BadRequest(f"{what} has groups within groups, more than {DEEPEST} deep.")
            group = Rule()
            name = f"({len(rules)}"
            rules[name] = group
            way.append(Element(name))
            open_rules.append(group)
        elif kind == "close":
            if len(open_rules) == 1:
                raise BadRequest(f"{what} does not parse: a group ends that never began.")
            open_rules.pop()
        elif kind == "or":
            open_rules[-1].ways.append([])
        elif kind == "repeat":
            if way:
                _repeat(way[-1], found["repeat"], what)
                repeated += way[-1].size
                if repeated > MOST_REPEATED:
                    raise BadRequest(f"{what} is longer than {MOST_REPEATED:,} with its repetitions written out.")
        elif kind != "space":
            way.append(Element(found["rule"], found["text"] == '""', 1 if found["rule"] else len(found[0])))
    return rules


def _repeat(element: Element, bounds: str, what: str) -> None:
    if bounds in "*+?":
        element.may_be_missing |= bounds != "+"
        return
    found = BOUNDS.fullmatch(bounds)
    if found is None:
        raise BadRequest(f"{what} does not parse: a repetition is written {{m}}, {{m,}} or {{m,n}}.")
    least = int(found["least"])
    most = int(found["most"]) if found["most"] else least
    if most < least:
        raise BadRequest(f"{what} repeats something at least {least:,} and at most {most:,} times.")
    if most > MOST_TIMES:
        raise BadRequest(f"{what} repeats something {most:,} times; {MOST_TIMES:,} are the most.")
    element.may_be_missing |= least == 0
    element.times *= max(1, most)
    element.size *= max(1, most)


def _may_be_empty(rules: dict[str, Rule]) -> set[str]:
    """Rules that may match nothing, found by going over all until none is added."""
    users: dict[str, list[str]] = {}
    for name, rule in rules.items():
        for way in rule.ways:
            for element in way:
                if element.rule is not None:
                    users.setdefault(element.rule, []).append(name)
    empty: set[str] = set()
    open_names = list(rules)
    while open_names:
        name = open_names.pop()
        if name not in empty and any(
            all(element.may_be_missing or element.rule in empty for element in way) for way in rules[name].ways
        ):
            empty.add(name)
            open_names += users.get(name, [])
    return empty


def _ways(rules: dict[str, Rule], empty: set[str]) -> dict[str, int]:
    """In how many ways the first letter of each rule can be reached."""
    first: dict[str, list[tuple[str | None, int]]] = {name: [] for name in rules}
    for name, rule in rules.items():
        for way in rule.ways:
            for element in way:
                # What may be empty can begin with each of its repetitions.
                times = element.times if element.rule in empty else 1
                first[name].append((element.rule if element.rule in rules else None, times))
                if not (element.may_be_missing or element.rule in empty):
                    break
    found: dict[str, int] = {}
    for start in rules:
        waiting = [start]
        entered: set[str] = set()
        while waiting:
            name = waiting[-1]
            # What leads back to itself llama.cpp refuses: here it only must not go round for ever.
            missing = [] if name in entered else [one for one, _ in first[name] if one and one not in found]
            entered.add(name)
            missing = [one for one in missing if one not in entered]
            if missing:
                waiting += missing
            else:
                waiting.pop()
                found[name] = sum(1 if one is None else times * found.get(one, 1) for one, times in first[name])
    return found
