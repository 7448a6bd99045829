"""The packages and what they may import, read from the source: nothing is imported here."""

import ast
import fnmatch
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "llm_cls"
COMMANDS = (
    "train", "predict", "report", "status", "benchmark", "dashboard", "evaluate", "export", "calibrate", "multirun",
)  # fmt: skip
LEAVES = ("errors", "files", "signals", "redaction", "bounded", "locks", "hub", "cores", "cli")
# Packages of one level may not import one another, except for the pairs in AMONG.
LEVELS = (
    COMMANDS,
    ("exporting",),
    ("training", "reporting"),
    ("model",),
    ("engine",),
    ("data",),
    ("runs",),
    ("config", "metrics"),
    LEAVES,
)
LEVEL = {package: number for number, packages in enumerate(LEVELS) for package in packages}
AMONG = {("train", "multirun")} | {(a, b) for a in LEAVES for b in LEAVES}
HYDRA = {*COMMANDS, "config"}


def modules() -> dict[str, Path]:
    """All modules by name, as ``llm_cls.data.split``; packages by theirs."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def find_imports(name: str) -> Iterator[str]:
    """See ``imports``."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    todo: list[ast.AST] = [ast.parse(MODULES[name].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            assert base is not None
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            (argument,) = node.args
            parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
            assert isinstance(parts[0], ast.Constant), f"{name} imports what cannot be read"
            yield from fnmatch.filter(MODULES, "".join(p.value if isinstance(p, ast.Constant) else "*" for p in parts))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


@cache
def imports(name: str) -> list[str]:
    """The modules that ``name`` imports, inside functions too, without those under TYPE_CHECKING."""
    return list(find_imports(name))


def package_of(name: str) -> str:
    """The package or top-level module that a module belongs to."""
    return name.split(".")[1] if "." in name else ""


def edges() -> dict[tuple[str, str], set[str]]:
    """Imports from one package to another, inside functions too, with the modules that do it."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in MODULES:
        for target in imports(name):
            if (
                target in MODULES
                and package_of(target) not in ("", package_of(name), "assets")
                and package_of(name) not in ("", "assets")
            ):
                found.setdefault((package_of(name), package_of(target)), set()).add(f"{name} -> {target}")
    return found


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of nodes that reach one another."""

    def reachable(node: str) -> set[str]:
        seen: set[str] = set()
        todo = [node]
        while todo:
            for target in graph.get(todo.pop(), set()) - seen:
                seen.add(target)
                todo.append(target)
        return seen

    reach = {node: reachable(node) for node in graph}
    found: list[set[str]] = []
    for node in graph:
        group = {other for other in reach[node] if node in reach.get(other, set())}
        if group and group not in found:
            found.append(group)
    return found


def test_imports_point_one_way() -> None:
    wrong = {edge: by for edge, by in edges().items() if LEVEL[edge[0]] >= LEVEL[edge[1]] and edge not in AMONG}
    assert not wrong


def test_no_package_is_in_a_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in edges().keys() - AMONG:
        graph.setdefault(source, set()).add(target)
    assert not cycles(graph)


def test_no_module_is_in_a_cycle() -> None:
    """Counts imports inside functions: they hide a cycle from Python, not from a reader."""
    assert not cycles({name: {target for target in imports(name) if target in MODULES} - {name} for name in MODULES})


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]
    assert cycles({"a": {"b"}, "b": {"c"}}) == []


def test_hydra_stays_in_the_commands_and_the_configuration() -> None:
    users = {name for name in MODULES for target in imports(name) if target.split(".")[0] in ("hydra", "omegaconf")}
    assert not [name for name in users if package_of(name) not in HYDRA]


def test_modules_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > 250}


def test_the_top_of_the_package_holds_commands_and_leaves_alone() -> None:
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert top <= {*COMMANDS, *LEAVES}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("report", {"torch", "lightning", "transformers", "peft", "wandb", "hydra"}),
        ("multirun.task", {"torch", "lightning", "transformers", "peft", "wandb", "pandas"}),
        ("evaluate", {"torch", "lightning", "transformers", "peft", "wandb", "pandas", "hydra"}),
        ("predict", {"torch", "lightning", "transformers", "peft", "wandb", "pandas", "hydra"}),
        ("export", {"torch", "lightning", "transformers", "peft", "wandb", "pandas", "hydra"}),
        ("config.schema", {"torch", "lightning", "transformers", "wandb", "pandas", "hydra"}),
    ],
)
def test_importing_a_command_is_cheap(module: str, heavy: set[str]) -> None:
    """``--help`` and a configuration error wait for none of these."""
    program = f"import sys, llm_cls.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
