"""Plain data as JSON with exact types: what may pass between a candidate and whoever judges it.

`null`, booleans, strings and small integers are themselves; everything else is `[tag, ...]`, so tuple and list, int and
float, set and frozenset stay apart. Encoding runs inside the sandbox without importing `json` (a cold start counts in
milliseconds); decoding is total: hostile text raises `NotPlain` and nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself would cost a cold start several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_DEPTH, MAX_BITS = 64, 1 << 20
_SMALL = 1 << 53
_DECODERS: dict[str, Any] = {}  # the one that reads lines, made when the first one comes


class NotPlain(ValueError):
    """The value or text is not plain data; `size` says that it was only too big or too deep."""

    def __init__(self, text: str, size: bool = False) -> None:
        super().__init__(text)
        self.size = size


def _quote(text: str) -> str:
    """The text as a JSON string. Simple text needs no help; the encoder is only loaded for the rest."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    try:
        from _json import encode_basestring_ascii as encode_string
    except ImportError:  # an interpreter without the accelerator
        from json.encoder import py_encode_basestring_ascii as encode_string
    return encode_string(text)


class _Encoder:
    """Collects the pieces and counts their size, so that a huge or endless value stops early."""

    def __init__(self, limit: int, reference: Callable[[Any], str] | None) -> None:
        self.pieces: list[str] = []
        self.left = limit
        self.reference = reference

    def put(self, piece: str) -> None:
        self.left -= len(piece)
        if self.left < 0:
            raise NotPlain("the value is too big", size=True)
        self.pieces.append(piece)

    def many(self, tag: str, items: Any, depth: int) -> None:
        self.put(f'["{tag}"')
        for item in items:
            self.put(",")
            self.value(item, depth + 1)
        self.put("]")

    def value(self, value: Any, depth: int) -> None:
        """One value. Subclasses count as their base with the base's own content: overridden methods are not asked."""
        if depth > MAX_DEPTH:
            raise NotPlain("the value is nested too deeply", size=True)
        if value is None or value is True or value is False:
            self.put({None: "null", True: "true", False: "false"}[value])
            return
        kind = type(value)
        mro = kind.__mro__ if isinstance(kind, type) else ()
        for base, encode in _BY_TYPE:
            if base in mro:
                encode(self, value, depth)
                return
        self.extended(value, kind, depth)

    def extended(self, value: Any, kind: type, depth: int) -> None:
        """The few standard value types beyond the built-in ones, known by name so that none is imported here."""
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name == "decimal.Decimal":
            self.put(f'["D",{_quote(str(value))}]')
        elif name == "fractions.Fraction":
            self.many("F", (value.numerator, value.denominator), depth)
        elif name == "collections.deque":
            self.many("q", value, depth)
        elif self.reference is not None:
            self.put(self.reference(value))
        else:
            raise NotPlain(f"a value of type {kind.__name__} is not plain data")

    def integer(self, value: int, depth: int) -> None:
        number = int.__add__(value, 0)
        if -_SMALL < number < _SMALL:
            self.put(int.__repr__(number))
        elif number.bit_length() > MAX_BITS:
            raise NotPlain("the integer is too big", size=True)
        else:
            self.put(f'["i","{number:x}"]')

    def number(self, value: float, depth: int) -> None:
        self.put(f'["f","{float.hex(value)}"]')

    def text(self, value: str, depth: int) -> None:
        text = str.__str__(value)
        if str.__len__(text) > self.left:
            raise NotPlain("the text is too big", size=True)
        self.put(_quote(str.__getitem__(text, slice(None))))

    def complex_number(self, value: complex, depth: int) -> None:
        self.put(f'["c","{float.hex(value.real)}","{float.hex(value.imag)}"]')

    def binary(self, value: bytes, depth: int) -> None:
        self.put(f'["b","{bytes.hex(value)}"]')

    def mutable_binary(self, value: bytearray, depth: int) -> None:
        self.put(f'["a","{bytearray.hex(value)}"]')

    def mapping(self, value: dict[Any, Any], depth: int) -> None:
        self.many("d", (part for pair in dict.items(value) for part in pair), depth)

    def span(self, value: range, depth: int) -> None:
        self.many("r", (value.start, value.stop, value.step), depth)


_BY_TYPE: tuple[tuple[type, Callable[[_Encoder, Any, int], None]], ...] = (
    (int, _Encoder.integer),
    (str, _Encoder.text),
    (float, _Encoder.number),
    (list, lambda self, value, depth: self.many("l", list.__iter__(value), depth)),
    (tuple, lambda self, value, depth: self.many("t", tuple.__iter__(value), depth)),
    (dict, _Encoder.mapping),
    (set, lambda self, value, depth: self.many("s", set.__iter__(value), depth)),
    (frozenset, lambda self, value, depth: self.many("z", frozenset.__iter__(value), depth)),
    (bytes, _Encoder.binary),
    (bytearray, _Encoder.mutable_binary),
    (complex, _Encoder.complex_number),
    (range, _Encoder.span),
)


def encode(value: Any, limit: int, reference: Callable[[Any], str] | None = None) -> str:
    """ASCII text of at most `limit` characters for `value`; raises `NotPlain`.

    `reference` says what stands for an object that is not plain data (the RPC keeps such objects on their own side).
    """
    encoder = _Encoder(limit, reference)
    encoder.value(value, 0)
    return "".join(encoder.pieces)


def decode(tree: Any, reference: Callable[[Any], Any] | None = None) -> Any:
    """The value of parsed JSON. Total: whatever is not exactly what `encode` writes raises `NotPlain`."""
    try:
        return _decode(tree, 0, reference)
    except NotPlain:
        raise
    except (ValueError, TypeError, OverflowError, ArithmeticError, RecursionError, KeyError, IndexError) as error:
        raise NotPlain(f"malformed: {type(error).__name__}") from None


def loads(text: str | bytes, reference: Callable[[Any], Any] | None = None) -> Any:
    """`decode` of JSON text; raises `NotPlain` for anything else."""
    return decode(parse(text), reference)


def parse(text: str | bytes) -> Any:
    """JSON text to lists, strings and numbers, or `NotPlain`: no objects, no NaN, no endless digits."""
    import json

    decoder = _DECODERS.get("json")
    if decoder is None:
        decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_refuse, object_pairs_hook=_refuse)
        _DECODERS["json"] = decoder
    try:
        return decoder.decode(text if isinstance(text, str) else text.decode("utf-8", "surrogatepass"))
    except NotPlain:
        raise
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"not JSON: {type(error).__name__}") from None


def _refuse(_: Any) -> Any:
    raise NotPlain("not in the vocabulary")


def _float(text: str) -> float:
    if not isinstance(text, str) or len(text) > 40:
        raise NotPlain("float")
    return float.fromhex(text)


def _integer(text: str) -> int:
    if not isinstance(text, str) or len(text) > MAX_BITS // 4 + 2 or not set(text) <= set("-0123456789abcdef"):
        raise NotPlain("int")
    return int(text, 16)


def _extended(tag: str, items: list[Any]) -> Any:
    if tag == "D":
        from decimal import Decimal

        if len(items) != 1 or not isinstance(items[0], str) or len(items[0]) > 10_000:
            raise NotPlain("decimal")
        return Decimal(items[0])
    if tag == "F":
        from fractions import Fraction

        numerator, denominator = items
        if type(numerator) is not int or type(denominator) is not int:
            raise NotPlain("fraction")
        return Fraction(numerator, denominator)
    if tag == "q":
        from collections import deque

        return deque(items)
    raise NotPlain("tag")


def _decode(tree: Any, depth: int, reference: Callable[[Any], Any] | None) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlain("nested too deeply", size=True)
    if not isinstance(tree, list):
        if tree is None or isinstance(tree, str | bool | int):
            return tree
        raise NotPlain("type")
    tag, *rest = tree
    if not isinstance(tag, str):
        raise NotPlain("tag")
    if tag == "o" and reference is not None:
        return reference(rest)
    scalar = _SCALARS.get(tag)
    if scalar is not None:
        return scalar(*rest)
    items = [_decode(item, depth + 1, reference) for item in rest]
    make = _CONTAINERS.get(tag)
    return make(items) if make is not None else _extended(tag, items)


def _spread(keys: list[Any]) -> list[Any]:
    """The keys, unless so many share a hash that a set of them would take quadratic time to build."""
    if len(keys) > 256:
        hashes = sorted(map(hash, keys))
        if any(first == last for first, last in zip(hashes, hashes[64:], strict=False)):
            raise NotPlain("keys that collide")
    return keys


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise NotPlain("dict")
    return dict(zip(_spread(items[::2]), items[1::2], strict=True))


def _range(items: list[Any]) -> range:
    start, stop, step = items
    return range(start, stop, step)


_SCALARS: dict[str, Callable[..., Any]] = {
    "i": _integer,
    "f": _float,
    "b": bytes.fromhex,
    "a": bytearray.fromhex,
    "c": lambda real, imaginary: complex(_float(real), _float(imaginary)),
}
_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "l": lambda items: items,
    "t": tuple,
    "s": lambda items: set(_spread(items)),
    "z": lambda items: frozenset(_spread(items)),
    "d": _dictionary,
    "r": _range,
}
