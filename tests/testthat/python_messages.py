"""The messages that scvibridge's Python code may raise or warn with, as its source has them."""

import ast
from pathlib import Path

# What R never calls, and what is written to HTML.
WITHOUT = ("cli", "gpu", "cpu", "report", "plots.py", "__main__.py", "objects.py", "session.py")


def messages(folder):
    """List the texts in raise statements, warnings and notes, names filled in."""
    found = []
    for path in sorted(Path(folder).rglob("*.py")):
        if set(path.relative_to(folder).parts) & set(WITHOUT):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                found += [_text(argument) for argument in node.exc.args]
            elif isinstance(node, ast.Call) and _name(node) in ("warn", "note"):
                found += [_text(argument) for argument in node.args[:1]]
            elif isinstance(node, ast.FunctionDef):
                found += _texts_by_name(node)
    return sorted({text for text in found if " " in text})


def _texts_by_name(function):
    """List the texts that a function gives a name before it raises an error with them."""
    raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc]
    used = {part.id for error in raised for part in ast.walk(error) if isinstance(part, ast.Name)}
    return [
        _text(node.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant | ast.JoinedStr | ast.BinOp)
        and used & {target.id for target in node.targets if isinstance(target, ast.Name)}
    ]


def _name(call):
    return getattr(call.func, "attr", "")


def _text(node):
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        texts = [_text(part) for part in node.values]
        # What follows a name at once is empty, or begins with a colon.
        return "".join(
            "" if text == "value" and before == "'name'" else text
            for before, text in zip(["", *texts], texts, strict=False)
        )
    if isinstance(node, ast.FormattedValue):
        return "'name'" if node.conversion == ord("r") else "value"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "value"
