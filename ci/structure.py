"""Is it a JUnit file of ours, as far as its elements say? Asked while it is parsed, before a tree of it is built.

Only what `ci.junit` writes may stand where it stands: nesting without end, a second suite inside of the first, entities and
elements that one viewer shows and another does not are refused alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from xml.parsers import expat

MOST_CASES = 100_000
"""Testcases of one file."""
COUNTED = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
"""Attribute of a testsuite -> the elements that it counts."""
_OUTCOMES = ("failure", "error", "skipped")
_OUTPUT = ("system-out", "system-err")
_CHILDREN = {
    "": ("testsuites", "testsuite"),
    "testsuites": ("testsuite",),
    "testsuite": ("properties", "testcase", *_OUTPUT),
    "testcase": ("properties", *_OUTCOMES, *_OUTPUT),
    "properties": ("property",),
}


class Malformed(Exception):
    """What is wrong with it."""


class Structure:
    """Goes through a file once; afterwards `wrong_counts` compares what a testsuite says it has with what it has."""

    def __init__(self, data: bytes) -> None:
        self._path: list[str] = [""]
        self._found: Counter[str] = Counter()
        self._declared: list[Mapping[str, str]] = []
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.ProcessingInstructionHandler = self._refuse_instruction
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            said = expat.errors.messages[error.code]
            cut = "; it is cut off" if said in (_NO_END, _OPEN_END) else ""
            raise Malformed(f"{said}: line {error.lineno}, column {error.offset}{cut}") from None

    def wrong_counts(self) -> str:
        """The first attribute that does not count what is there; empty where all do."""
        for declared in self._declared:
            for attribute, element in COUNTED.items():
                said, found = declared.get(attribute, "nothing"), str(self._found[element])
                if said != found:
                    return f"{attribute} says {said[:20]}, and there are {found}"
        return ""

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag not in _CHILDREN.get(self._path[-1], ()):
            within = f" in <{self._path[-1]}>" if self._path[-1] else ""
            raise Malformed(f"<{tag[:40]}>{within}, which no file of ours has")
        self._path.append(tag)
        self._found[tag] += 1
        if self._found["testcase"] > MOST_CASES:
            raise Malformed(f"more than {MOST_CASES} testcases")
        if tag == "testsuite":
            self._declared.append(attributes)

    def _end(self, tag: str) -> None:
        self._path.pop()

    def _refuse_doctype(self, *declared: object) -> None:
        raise Malformed("a document type, which no file of ours has")

    def _refuse_instruction(self, target: str, data: str) -> None:
        """A browser would show what a style sheet makes of the file."""
        raise Malformed(f"<?{target[:40]}?>, which no file of ours has")


_NO_END = expat.errors.XML_ERROR_NO_ELEMENTS
_OPEN_END = expat.errors.XML_ERROR_UNCLOSED_TOKEN
