"""Imports go in one direction: between packages in the order below, and without cycles between modules."""

import ast
import sys
from pathlib import Path

import pytest

from mars_megatron.export import code

ROOT = Path(__file__).parents[2]
PACKAGE = "mars_megatron"

# A package may import those before it, and itself.
ORDER = [
    *("files", "pictures", "index", "compat"),
    *("config", "recipes", "platform", "tokenizers"),
    *("sequence", "data", "indexing", "model", "checkpoint"),
    *("sampling", "gallery", "export", "conversion"),
    *("evaluation", "training"),
]
LEVEL = {name: level for level, name in enumerate(ORDER)}
# Only these may know megatron-core (sampling its process groups).
MEGATRON = {"compat", "platform", "model", "checkpoint", "training", "sampling"}
# Light enough for a login node or for workers: no torch.
WITHOUT_TORCH = {"config", "recipes", "index", "pictures"}
# Of the files in an exported folder: what they may import, and what only inside functions.
EXPORTED = code.homes()
NEEDED = {"torch", "transformers", "numpy", *sys.stdlib_module_names}
OPTIONAL = {"diffusers", "PIL", "sentencepiece"}


def module_name(path):
    """Dotted, of a file of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def imported(tree):
    """Dotted names of the modules that are imported, also inside functions; not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in names if name in MODULES]
            yield from modules
            if len(modules) < len(names):
                yield node.module
        yield from imported(node)


GRAPH = {
    name: {other for other in imported(ast.parse(path.read_text(encoding="utf-8")))} for name, path in MODULES.items()
}


def package_of(name):
    """The subpackage that a dotted name belongs to, or None."""
    names = name.split(".")
    return names[1] if names[0] == PACKAGE and len(names) > 1 else None


def direction_errors(name, others):
    """What is wrong with what a module imports."""
    own = package_of(name)
    for other in others:
        theirs = package_of(other)
        if own not in LEVEL or theirs in (None, own, "_C"):
            continue
        if theirs not in LEVEL:
            yield f"{name} imports the entry point {other}"
        elif LEVEL[theirs] > LEVEL[own]:
            yield f"{name} imports {other}"


def circles(graph):
    """Strongly connected parts of more than one node."""
    reached = {name: reachable(graph, name) for name in graph}
    return {frozenset(other for other in reached[name] if name in reached[other]) for name in graph} - {frozenset()}


def reachable(graph, name):
    found, waiting = set(), [name]
    while waiting:
        for other in graph.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    tops = {other.split(".")[0] for other in GRAPH[name]}
    assert not list(direction_errors(name, GRAPH[name]))
    if package_of(name) in WITHOUT_TORCH:
        assert not tops & {"torch", "megatron"}
    if package_of(name) in LEVEL and package_of(name) not in MEGATRON:
        assert "megatron" not in tops
    assert not tops & {"tools", "benchmarks", "examples", "tests"}


def test_no_module_imports_itself_by_way_of_others():
    assert not circles({name: {other for other in GRAPH[name] if other in MODULES} for name in MODULES})


def test_every_subpackage_has_a_level():
    assert {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")} == set(LEVEL)


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_files_stand_alone(name):
    """They import each other relatively, and what the environment of an exported model has; some of it late."""
    tree = ast.parse(code.source(name))
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert {node.module for node in relative} <= set(EXPORTED) and all(node.level == 1 for node in relative)
    for node in relative:
        node.level, node.module = 0, "torch"
    assert {other.split(".")[0] for other in imported(tree)} <= NEEDED | OPTIONAL
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.If, ast.Try))]
    assert not [node for node in ast.walk(tree) for name in OPTIONAL if name in ast.unparse(node)]


def test_entry_files_import_all_that_they_need():
    """transformers 4 copies the files that an entry file imports itself, and not those that they import in turn."""
    direct = {
        name: {
            node.module
            for node in ast.walk(ast.parse(code.source(name)))
            if isinstance(node, ast.ImportFrom) and node.level == 1
        }
        for name in EXPORTED
    }
    for entry in ("configuration_mars", "modeling_mars", "processing_mars"):
        needed = set().union(*(direct[name] for name in direct[entry])) | direct[entry]
        assert needed <= direct[entry], (entry, needed - direct[entry])


@pytest.mark.parametrize(
    ("name", "other", "fine"),
    [
        ("sequence.plan", "config.schema", True),
        ("sequence.plan", "_C", True),
        ("sequence.plan", "data", False),
        ("data.store", "model", False),
        ("model.mars", "sequence.batch", True),
        ("config.schema", "recipes", False),
        ("recipes.command_line", "config", True),
        ("training.loop", "train", False),
        ("train", "training", True),
    ],
)
def test_the_rule_itself(name, other, fine):
    assert (not list(direction_errors(f"{PACKAGE}.{name}", [f"{PACKAGE}.{other}"]))) == fine


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})
