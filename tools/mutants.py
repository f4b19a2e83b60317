"""Small changes to Python source, each of which a test should notice: what `tools/mutate` makes of the core.

    for mutant in find_mutants("pace.py", source):
        print(mutant.before, "->", mutant.after)
        changed = mutant.apply(source)

A change replaces the text of one expression or statement; the rest of the file stays as it is, comments included. Left
out is what no test of behaviour should fix: annotations, texts, log lines, assertions, decorators, and the arguments of
`setting(...)`, for a flag's default is a decision.
"""

import ast
import copy
import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator

_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_PAIRS = (
    ("min", "max"),
    ("any", "all"),
    ("minimum", "maximum"),
    ("reduce_min", "reduce_max"),
    ("reduce_any", "reduce_all"),
    ("floor", "ceil"),
    ("zeros_like", "ones_like"),
    ("zeros", "ones"),
    ("assign", "assign_add"),
)
_CALLS = {
    **{one: other for pair in _PAIRS for one, other in (pair, pair[::-1])},
    "assign_sub": "assign_add",
}
# A tensor's name is for people, gradients are taken of views, which no variable's `trainable` concerns, and autograph
# finds nothing to convert.
_IDLE_KEYWORDS = ("name", "trainable", "autograph")
_IDLE_CALLS = ("setting", "info", "warning")
# In one process a device changes nothing.
_IDLE_CONTEXTS = ("device", "name_scope")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change to one file.

    Attributes:
      file: its path, as it was given.
      line: where the changed text begins, from 1.
      column: the byte of that line, from 0.
      operator: the kind of the change.
      before: the lines that it touches, as one.
      after: the same lines when it is made.
      span: first and last line of the statement around it, without the body of a compound one.
      place: first byte of the text that is replaced, and the byte behind it.
      text: what takes its place.
    """

    file: str
    line: int
    column: int
    operator: str
    before: str
    after: str
    span: tuple[int, int]
    place: tuple[int, int]
    text: str

    @property
    def address(self) -> str:
        """What tells it from every other mutant of the same sources."""
        return f"{self.file}:{self.line}:{self.column}:{self.operator}"

    def apply(self, source: str) -> str:
        """The file's source with the change."""
        return _replaced(source.encode(), self.place, self.text).decode()


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """So many of the mutants, 0 for all, in the order of their files.

    Which ones depends on their text, not on their number or line: most of a sample stays when the code changes.
    """

    def draw(mutant: Mutant) -> bytes:
        words = (seed, mutant.file, mutant.operator, mutant.column, mutant.before, mutant.after)
        return hashlib.sha256(repr(words).encode()).digest()

    chosen = sorted(mutants, key=draw)[: count or None]
    return sorted(chosen, key=lambda mutant: (mutant.file, mutant.line, mutant.column, mutant.operator))


def find_mutants(file: str, source: str) -> list[Mutant]:
    """Every mutant of a file's source, in the order of their places."""
    tree, encoded = ast.parse(source), source.encode()
    starts = [0, *(place + 1 for place, byte in enumerate(encoded) if byte == ord("\n"))]
    found: dict[str, Mutant] = {}
    for statement, target, operator, new in _changes_below(tree, frozenset()):
        text = ast.unparse(new)
        text = f"({text})" if isinstance(new, ast.expr) else text
        place = (starts[target.lineno - 1] + target.col_offset, starts[target.end_lineno - 1] + target.end_col_offset)
        changed = _replaced(encoded, place, text)
        if ast.dump(new) == ast.dump(target) or not _parses(changed):
            continue
        first = starts[target.lineno - 1]
        behind = len(encoded) - _end_of_line(encoded, place[1])
        before, after = (" ".join(each[first : len(each) - behind].decode().split()) for each in (encoded, changed))
        mutant = Mutant(file, target.lineno, target.col_offset, operator, before, after, _span(statement), place, text)
        found.setdefault(mutant.address, mutant)
    return sorted(found.values(), key=lambda mutant: (mutant.place, mutant.operator))


def _replaced(source: bytes, place: tuple[int, int], text: str) -> bytes:
    return source[: place[0]] + text.encode() + source[place[1] :]


def _end_of_line(source: bytes, place: int) -> int:
    end = source.find(b"\n", place)
    return len(source) if end < 0 else end


def _parses(source: bytes) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _span(statement: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, or of the head of one that has a body."""
    body = getattr(statement, "body", None)
    if not body:
        return statement.lineno, statement.end_lineno or statement.lineno
    first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
    return first, max(first, body[0].lineno - 1)


Change = tuple[ast.AST, str, ast.AST]
"""What is replaced, the operator's name, and what takes its place."""


def _changes_below(node: ast.AST, rebound: frozenset[str], statement: ast.stmt | None = None) -> Iterator[tuple]:
    """The statement around each change below `node`, and the change; `rebound` are names with more than one value."""
    if isinstance(node, ast.FunctionDef):
        rebound = _rebound_names(node)
    if isinstance(node, ast.stmt):
        statement = node
        yield from ((statement, *change) for change in _removals(node, rebound))
    yield from ((statement, *change) for change in _changes(node))
    for child in _children(node):
        yield from _changes_below(child, rebound, statement)


def _children(node: ast.AST) -> list[ast.AST]:
    """The parts of a node in which changes are looked for."""
    if isinstance(node, ast.Assert | ast.Raise | ast.JoinedStr) or _is_idle(node):
        return []
    if isinstance(node, ast.keyword) and node.arg in _IDLE_KEYWORDS:
        return []
    left_out = ("annotation", "returns", "decorator_list", "ctx", "op", "ops")
    children: list[ast.AST] = []
    for field, value in ast.iter_fields(node):
        if field not in left_out:
            children += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)]
    return children


def _is_idle(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) in _IDLE_CALLS


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _rebound_names(function: ast.FunctionDef) -> frozenset[str]:
    """Names of a function that have a value before some assignment to them, so that it can be left out."""
    counts = Counter(argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg))
    counts.update(
        node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    return frozenset(name for name, count in counts.items() if count > 1)


def _removals(node: ast.stmt, rebound: frozenset[str]) -> Iterator[Change]:
    """Statements left out, as far as the rest can go on without them."""
    if isinstance(node, ast.Return):
        if node.value is not None and not _is_constant(node.value, None):
            yield node, "return None", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        kept = [each for target in targets for each in getattr(target, "elts", [target])]
        if node.value is not None and all(not isinstance(each, ast.Name) or each.id in rebound for each in kept):
            yield node, "statement removed", ast.Pass()
    elif isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Call) and not _is_idle(node.value):
            yield node, "statement removed", ast.Pass()
    elif isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete):
        yield node, "statement removed", ast.Pass()


@functools.singledispatch
def _changes(node: ast.AST) -> Iterator[Change]:
    """The changes of one node."""
    yield from ()


@_changes.register(ast.BinOp)
@_changes.register(ast.AugAssign)
def _(node) -> Iterator[Change]:
    if type(node.op) in _ARITHMETIC:
        yield node, "arithmetic", _with(node, op=_ARITHMETIC[type(node.op)]())


@_changes.register
def _(node: ast.UnaryOp) -> Iterator[Change]:
    yield node, "sign or not removed", node.operand


@_changes.register
def _(node: ast.Compare) -> Iterator[Change]:
    for number, operator in enumerate(node.ops):
        for other in _COMPARISONS[type(operator)]:
            ops = [*node.ops[:number], other(), *node.ops[number + 1 :]]
            yield node, f"{type(operator).__name__} to {other.__name__} {number}", _with(node, ops=ops)


@_changes.register
def _(node: ast.BoolOp) -> Iterator[Change]:
    yield node, "and/or", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for number in range(len(node.values)):
        values = node.values[:number] + node.values[number + 1 :]
        new = values[0] if len(values) == 1 else _with(node, values=values)
        yield node, f"operand {number} removed", new


@_changes.register
def _(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield node, "true/false", ast.Constant(not value)
    elif isinstance(value, int | float):
        others = {"plus one": value + 1, "zero": type(value)(0), "negated": -value}
        for operator, other in others.items():
            if other != value:
                yield node, operator, ast.Constant(other)


@_changes.register
def _(node: ast.Call) -> Iterator[Change]:
    other = _CALLS.get(_name(node.func))
    if other:
        yield node, f"call of {other}", _with(node, func=_renamed(node.func, other))
    if _is_idle(node):
        return
    for number, keyword in enumerate(node.keywords):
        if keyword.arg and keyword.arg not in _IDLE_KEYWORDS and not isinstance(keyword.value, ast.JoinedStr):
            keywords = node.keywords[:number] + node.keywords[number + 1 :]
            yield node, f"without {keyword.arg}", _with(node, keywords=keywords)


@_changes.register(ast.If)
@_changes.register(ast.IfExp)
@_changes.register(ast.While)
def _(node) -> Iterator[Change]:
    if not isinstance(node, ast.While):  # a loop without an end would be found by its time alone
        yield node.test, "condition true", ast.Constant(True)
    yield node.test, "condition false", ast.Constant(False)


@_changes.register
def _(node: ast.comprehension) -> Iterator[Change]:
    for condition in node.ifs:
        yield condition, "condition true", ast.Constant(True)
        yield condition, "condition false", ast.Constant(False)


@_changes.register
def _(node: ast.With) -> Iterator[Change]:
    for item in node.items:
        context = item.context_expr
        if not (isinstance(context, ast.Call) and _name(context.func) in _IDLE_CONTEXTS):
            yield context, "without context", ast.parse("__import__('contextlib').nullcontext()", mode="eval").body


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _renamed(function: ast.AST, name: str) -> ast.AST:
    return _with(function, **{"id" if isinstance(function, ast.Name) else "attr": name})


def _is_constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
