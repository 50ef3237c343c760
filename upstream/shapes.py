"""Recognises code by its shape: names and structure, whatever its spacing, line breaks or comments."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

import libcst as cst

__all__ = ["code_of", "same_shape", "shape", "walk"]

HOLE = "_"
_KINDS = {
    ast.Assign: "Assign",
    ast.Attribute: "Attribute",
    ast.Await: "Await",
    ast.Call: "Call",
    ast.Compare: "Comparison",
}
_MODULE = cst.Module(body=[])


def code_of(node: cst.CSTNode) -> str:
    """The source of a node."""
    return _MODULE.code_for_node(node)


@functools.cache
def shape(code: str) -> ast.AST:
    """The shape that `code` shows. `_` stands for any expression, `f(...)` for any arguments."""
    tree = ast.parse(f"async def _():\n    {code}").body[0]
    assert isinstance(tree, ast.AsyncFunctionDef)
    return _core(tree.body[0])


def _core(statement: ast.stmt) -> ast.AST:
    return statement.value if isinstance(statement, ast.Expr) else statement


def same_shape(pattern: ast.AST, node: cst.CSTNode) -> bool:
    """Whether an expression or a small statement has the shape of `pattern`."""
    if type(node).__name__ != _KINDS[type(pattern)]:
        return False
    return _same(pattern, _parsed(node))


@functools.lru_cache(maxsize=4096)
def _parsed(node: cst.CSTNode) -> ast.AST:
    code = code_of(node)
    if isinstance(node, cst.BaseExpression):
        parsed = ast.parse(f"async def _():\n  (\n{code}\n)").body[0]
    else:
        parsed = ast.parse(f"async def _():\n  {code.strip()}").body[0]
    assert isinstance(parsed, ast.AsyncFunctionDef)
    return _core(parsed.body[0])


def _same(pattern: object, node: object) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id == HOLE:
        return isinstance(node, ast.expr)
    if isinstance(pattern, ast.Call) and _any_arguments(pattern):
        return isinstance(node, ast.Call) and _same(pattern.func, node.func)
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(node) and all(
            _same(getattr(pattern, field, None), getattr(node, field, None))
            for field in pattern._fields
            if field not in ("ctx", "type_comment", "kind")
        )
    if isinstance(pattern, list):
        return (
            isinstance(node, list)
            and len(pattern) == len(node)
            and all(_same(one, other) for one, other in zip(pattern, node, strict=True))
        )
    return pattern == node


def _any_arguments(call: ast.Call) -> bool:
    return (
        len(call.args) == 1
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value is Ellipsis
    )


def walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """All nodes of a function, leaving out the functions inside it."""
    for child in node.children:
        if isinstance(child, (cst.FunctionDef, cst.Lambda)):
            continue
        yield child
        yield from walk(child)
