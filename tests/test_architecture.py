"""The structure that ARCHITECTURE.md promises, checked on the source."""

import ast
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("policies", "cluster", "workers", "router", "loadtest")
MAY_IMPORT = {
    "policies": set(),
    "cluster": {"policies"},
    "workers": {"cluster"},
    "router": {"cluster", "policies"},
    "loadtest": {"policies", "cluster", "workers"},
}
COMPOSITION_ROOT = {
    "cluster/cli.py",
    "loadtest/cli.py",
    "cluster/serve/launcher.py",
    "cluster/serve/serve_app.py",
}
"""May import `router`, `workers` and `loadtest`, but only inside functions: each may be installed without the
others."""

ROOMS = [
    "policies",
    "cluster.errors", "cluster.apis", "cluster.process", "cluster.protocol", "cluster.settings",
    "cluster.flags", "cluster.configuration", "cluster.log_sink", "cluster.log",
    "cluster.store", "cluster.index", "cluster.prompts", "cluster.fleet", "cluster.sync", "cluster.operate",
    "workers.errors", "workers.settings", "workers.concurrency",
    "workers.events", "workers.engines", "workers.agent", "workers.replica", "workers.sim",
    "router.errors", "router.tenants", "router.settings",
    "router.http", "router.upstream", "router.stored", "router.requests", "router.explain", "router.answers",
    "router.steer", "router.history", "router.health", "router.observe",
    "router.prefixes", "router.api", "router.admin",
    "router.app", "router.server", "router.processes",
    "cluster.serve",
    "loadtest.options", "loadtest.text_file", "loadtest.simulator", "loadtest.workloads",
    "loadtest.scenarios", "loadtest.harness",
    "loadtest.charts", "loadtest.replay", "loadtest.doctor", "loadtest.users", "loadtest.locustfile",
    "loadtest.trial", "loadtest.bench", "loadtest.studies", "loadtest.cli",
    "cluster.cli",
]  # fmt: skip
"""Subpackages, and modules that stand alone. Imports go upwards in this list, or stay in the room."""
MAX_FILES = 8
"""Directly in a package."""
MAX_FILES_IN_ROOM = 12
SMALL = ("cluster", "router", "workers")
MAX_LINES = 330
MAX_BYTES = 1_000_000
"""Larger files are data."""
IMPURE = {
    "asyncio", "datetime", "io", "multiprocessing", "os", "pathlib", "random", "secrets", "shutil", "signal",
    "socket", "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
POLICIES_MAY_USE = {"numba", "numpy", "uhashring", "policies"}
NOT_OURS = {".git", ".hypothesis", ".venv", ".warmroute", "__pycache__", "build", "node_modules"}
NOT_OUR_ENDS = ("_cache", ".egg-info")
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("debian", "org"),
        ("ubuntu", "com"),
        ("crates", "io"),
        ("download", "pytorch", "org"),
        ("proxy", "golang", "org"),
    )
]

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    """A path as it is written in the repository."""
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    """What stands in a file."""
    return ast.parse(path.read_text())


def is_late(node: ast.AST) -> bool:
    """Whether what stands inside is not run when the module is imported."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """First part of every imported module, and whether it is imported inside a function."""
    tree = parsed(path)
    inside = {id(node) for outer in ast.walk(tree) if is_late(outer) for node in ast.walk(outer)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            names = [node.module or ""]
        for name in names:
            yield name.partition(".")[0], id(node) in inside


def our_files() -> Iterator[Path]:
    """All text files that belong to the project."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and not name.endswith(NOT_OUR_ENDS)]
        for path in (Path(folder) / name for name in files):
            if path.is_file() and path.stat().st_size < MAX_BYTES:
                yield path


def test_packages_import_only_what_they_may():
    """Parts meet where the design says: `router` and `workers` never import each other."""
    wrong = []
    for path in MODULES:
        package = path.relative_to(ROOT).parts[0]
        allowed = MAY_IMPORT[package] | {package}
        for imported, in_function in imports_of(path):
            if imported not in PACKAGES or imported in allowed:
                continue
            composes = name_of(path) in COMPOSITION_ROOT and imported in ("router", "workers", "loadtest")
            if not composes or not (in_function or imported == "loadtest"):
                wrong.append(f"{name_of(path)} imports {imported}")
    assert not wrong


def module_of(path: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The entry of `ROOMS` that a module belongs to."""
    package, *rest = module.split(".")
    return package if package in ROOMS else ".".join([package, *rest[:1]])


def modules_imported(path: Path, known: frozenset[str]) -> set[str]:
    """Our modules that a file imports anywhere, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


@cache
def import_graph() -> dict[str, set[str]]:
    """What each of our modules imports; packages that hold nothing are left out."""
    paths = {module_of(path): path for path in MODULES if path.stat().st_size}
    known = frozenset(paths)
    return {module: modules_imported(path, known) - {module} for module, path in paths.items()}


def test_imports_follow_the_order_of_rooms():
    """A room uses those before it, never those after it, not even inside functions or for type checking."""
    places = {room: place for place, room in enumerate(ROOMS)}
    wrong = [
        f"{module} imports {imported}"
        for module, imports in import_graph().items()
        for imported in imports
        if places[room_of(imported)] > places[room_of(module)]
    ]
    assert not wrong


def test_no_modules_import_each_other():
    """There is an order in which every module comes after all that it imports."""
    TopologicalSorter(import_graph()).prepare()


def test_rooms_are_small():
    """A folder can be taken in at a glance."""
    files = [path.relative_to(ROOT) for path in MODULES if path.stat().st_size]
    sizes = Counter(path.parent.parts for path in files if path.parts[0] in SMALL)
    crowded = {
        "/".join(folder): size
        for folder, size in sizes.items()
        if size > (MAX_FILES if len(folder) == 1 else MAX_FILES_IN_ROOM)
    }
    assert not crowded


@pytest.mark.parametrize("path", sorted((ROOT / "policies").rglob("*.py")), ids=name_of)
def test_policies_are_pure(path):
    """A policy sees no clock, no chance and no I/O: pure parts of the standard library, three packages."""
    for imported, _ in imports_of(path):
        assert imported in POLICIES_MAY_USE or imported in sys.stdlib_module_names, imported
        assert imported not in IMPURE, imported
    calls = {
        node.func.id
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval", "__import__"}
    assert "np.random" not in path.read_text()


def test_modules_own_one_idea():
    """A file that grows past 330 lines wants to be two."""
    assert not [name_of(path) for path in MODULES if len(path.read_text().splitlines()) > MAX_LINES]


def test_no_registry_is_named():
    """Packages come from where a machine's own configuration says: no file names a registry's host."""
    found = []
    for path in our_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}: {host}" for host in REGISTRY_HOSTS if host in text]
    assert not found


def test_every_test_states_its_behaviour():
    """A test's docstring says what holds."""
    silent = [
        f"{name_of(path)}: {node.name}"
        for path in TESTS
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_every_package_is_typed():
    """Each package tells type checkers that it is annotated."""
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists(), package


def test_architecture_has_a_line_for_every_room():
    """A newcomer finds each folder in the table, a short glossary, and all of it on a few screens."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms, glossary = text.split("## Rooms")[1].split("## Glossary")
    named = {
        name for cell in re.findall(r"^\| (.*?) \|", rooms, re.M) for name in re.findall(r"`([\w/]+)`", cell)
    }
    folders = {path.parent.relative_to(ROOT).as_posix() for path in MODULES if path.stat().st_size}
    missing = {folder for folder in folders - named if folder.removeprefix("loadtest/") not in named} - {
        "loadtest"
    }
    assert not missing
    assert len(re.findall(r"^\| ", glossary, re.M)) <= 25 + 1
    assert len(text.splitlines()) < 150


def test_documents_name_no_files_that_are_not_here():
    """Whoever clones the repository can follow every reference to one of its files."""
    folders = ("cluster", "docs", "infra", "loadtest", "policies", "router", "tests", "workers")
    named = re.compile(
        rf"(?<![\w/.-])((?:{'|'.join(folders)})/[\w/.-]*\w\.(?:py|md|toml|json|lua|html|png|yml))\b"
    )
    outside = re.compile(r"\.\./shared|DESIGN\.md|FACTS|STYLE\.md")
    wrong = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text()
        wrong += [f"{name_of(path)}: {name}" for name in named.findall(text) if not (ROOT / name).exists()]
        wrong += [f"{name_of(path)}: {name}" for name in outside.findall(text)]
    assert not wrong
