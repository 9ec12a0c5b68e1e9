"""The import direction: config <- huggingface <- platform, ops, tokenizers <- data, model <- checkpoint, generation
<- evaluation, training <- benchmarks <- the entry point, tools and examples. recipes imports config alone."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "mars_megatron"

# A package may import those before it, and itself. Within one stage of the design the order is that of this list.
ORDER = [
    "config",
    "huggingface",
    *("recipes", "platform", "ops", "tokenizers"),
    *("data", "indexing", "model"),
    *("checkpoint", "generation", "conversion"),
    *("evaluation", "training"),
    "benchmarks",
]
LEVEL = {name: level for level, name in enumerate(ORDER)}
# The command line resolves --recipe: the one place that knows both sides. The exported files lie below the tokenizers,
# which share their arithmetic; what writes them beside a tokenizer's knows both sides too.
ALLOWED = {
    ("config/cli.py", "recipes"),
    ("huggingface/folder.py", "tokenizers"),
    ("huggingface/text_tokenizer.py", "tokenizers"),
}
# Only these may know megatron-core (data its index format, generation its process groups, benchmarks to compare with).
MEGATRON = {"platform", "model", "checkpoint", "training", "data", "generation", "benchmarks"}
# Light enough for a login node: no torch.
WITHOUT_TORCH = {"config", "recipes"}
# Copied into exported folders: they run where this package is not, and import each other relatively.
OPTIONAL = {"diffusers", "PIL", "sentencepiece"}
EXPORTED = sorted((ROOT / PACKAGE / "huggingface").glob("*_mars.py"))


def imported(path):
    """Dotted names of the modules that a file imports, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if path in EXPORTED and node.level == 1:
                assert ROOT / PACKAGE / "huggingface" / f"{node.module}.py" in EXPORTED, f"{path}: {node.module}"
                continue
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def files(folder):
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found or folder != PACKAGE, folder
    return found


def part(name):
    """The subpackage of mars_megatron that a module belongs to, or None."""
    names = name.split(".")
    return names[1] if names[0] == PACKAGE and len(names) > 1 else None


def direction_errors(relative, names):
    """What is wrong with the imports of the file `relative` to the package."""
    own = relative.split("/")[0]
    for name in names:
        other = part(name)
        if own not in LEVEL or other is None or other == own or other == "_C":
            continue
        if other not in LEVEL:
            yield f"{relative} imports the entry point {name}"
        elif LEVEL[other] >= LEVEL[own] and (relative, other) not in ALLOWED:
            yield f"{relative} ({own}) imports {name} ({other})"


@pytest.mark.parametrize("path", files(PACKAGE), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    relative = path.relative_to(ROOT / PACKAGE).as_posix()
    own = relative.split("/")[0]
    names = list(imported(path))
    assert not list(direction_errors(relative, names))
    if own in WITHOUT_TORCH:
        assert not [name for name in names if name.split(".")[0] in ("torch", "megatron")]
    if own in LEVEL and own not in MEGATRON:
        assert not [name for name in names if name.split(".")[0] == "megatron"]
    assert not [name for name in names if name.split(".")[0] in ("tools", "examples", "tests")]


def test_recipes_import_config_alone():
    for path in files(f"{PACKAGE}/recipes"):
        others = {part(name) for name in imported(path)} - {None, "config", "recipes"}
        assert not others, path


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.name)
def test_exported_files_stand_alone(path):
    """Only what the environment of the exported model has; the others inside functions, where needed."""
    tops = {name.split(".")[0] for name in imported(path)}
    tops -= {"torch", "transformers", "numpy", *sys.stdlib_module_names}
    assert tops <= OPTIONAL, tops
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.If, ast.Try))]
    assert not [node for node in ast.walk(tree) for name in OPTIONAL if name in ast.unparse(node)]


def test_entry_files_import_all_that_they_need():
    """transformers 4 copies the files that an entry file imports itself, and not those that they import in turn."""
    direct = {
        path.stem: {
            node.module
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.level == 1
        }
        for path in EXPORTED
    }
    for entry in ("configuration_mars", "modeling_mars", "processing_mars"):
        needed = set().union(*(direct[name] for name in direct[entry])) | direct[entry]
        assert needed <= direct[entry], (entry, needed - direct[entry])


def test_every_subpackage_has_a_level():
    subpackages = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert subpackages <= set(LEVEL)


@pytest.mark.parametrize(
    ("relative", "name", "fine"),
    [
        ("ops/plan.py", "mars_megatron.config.schema", True),
        ("ops/plan.py", "mars_megatron._C", True),
        ("ops/plan.py", "mars_megatron.tokenizers", False),
        ("data/batch.py", "mars_megatron.model", False),
        ("model/mars.py", "mars_megatron.data.batch", True),
        ("data/batch.py", "mars_megatron.ops", True),
        ("config/schema.py", "mars_megatron.recipes", False),
        ("config/cli.py", "mars_megatron.recipes", True),
        ("training/loop.py", "mars_megatron.train", False),
        ("train.py", "mars_megatron.training", True),
        ("benchmarks/step.py", "mars_megatron.training.step", True),
        ("training/step.py", "mars_megatron.benchmarks.timing", False),
    ],
)
def test_the_rule_itself(relative, name, fine):
    assert (not list(direction_errors(relative, [name]))) == fine
