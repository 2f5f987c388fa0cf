"""Writes the BUILD files from what the Python files import.

    python tools/make_build.py

A folder gets one BUILD file, a Python file one target in it:

- `module.py` is the library `:module`, or a binary if it can be run;
- `__init__.py` is the library named as its folder, `__main__.py` the binary `:main`;
- `test_module.py` is the test `:test_module`, run by pytest.

`module.js` and `module.css` are data of `:module`, which reads them.

`tests/test_build_files.py` reads the result with code of its own.
"""

import ast
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "docs", "tests", "tf_seqattn", "tools")
RULES = "@rules_python//python:defs.bzl"
THIRD_PARTY = "third_party/py"
# Packages that pip knows by another name than `import` does.
PIP_NAMES = {"sklearn": "scikit-learn"}
# Calls that import, or find, the module named in a string.
LAZY_IMPORTS = ("importlib.import_module", "importlib.util.find_spec")
HEADER = "# Written by tools/make_build.py from the imports: run `make build-files`.\n"


def module_name(path: pathlib.Path) -> str:
    """Returns the dotted name by which the file `path` is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def target_name(path: pathlib.Path) -> str:
    """Returns the name of the target of the file `path` in its BUILD file."""
    return {"__init__": path.parent.name, "__main__": "main"}.get(path.stem, path.stem)


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes under `node` but for what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from runtime_nodes(child)


def imported_names(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Yields the dotted names that `tree`, the source of `module`, imports."""
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parents = module.split(".")
                up = node.level - is_package
                base = parents[: len(parents) - up] + base
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in LAZY_IMPORTS:
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def label(path: pathlib.Path, package: pathlib.Path) -> str:
    """Returns the label of the file `path` as written in the BUILD of `package`."""
    name = target_name(path)
    if path.parent == package:
        return f":{name}"
    folder = path.parent.relative_to(ROOT).as_posix()
    return f"//{folder}" if name == path.parent.name else f"//{folder}:{name}"


def dependencies(path: pathlib.Path, modules: dict[str, pathlib.Path]) -> set[str]:
    """Returns the labels of all that the file `path` imports.

    Args:
      path: a Python file of the project.
      modules: every Python file of the project by its dotted name.

    Returns:
      Labels as written in the BUILD file of the folder of `path`.
    """
    package = path.parent
    found = set()
    tree = ast.parse(path.read_text())
    for name in imported_names(tree, module_name(path), path.stem == "__init__"):
        parts = name.split(".")
        if parts[0] in FOLDERS:
            # `from a.b import c` names the module a.b.c or something in a.b.
            prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            owner = next((p for p in prefixes if p in modules), None)
            if owner is None:
                raise SystemExit(f"{path}: `{name}` is imported, but no file has it.")
            found.add(label(modules[owner], package))
        elif parts[0] not in sys.stdlib_module_names:
            found.add(f"//{THIRD_PARTY}:{parts[0]}")
    found.discard(label(path, package))
    return found


def rule(kind: str, **attributes: object) -> str:
    """Returns the call of the rule `kind`, laid out as buildifier does."""
    lines = [f"{kind}("]
    for key, value in attributes.items():
        if isinstance(value, list) and len(value) > 1:
            items = "".join(f'        "{item}",\n' for item in value)
            lines.append(f"    {key} = [\n{items}    ],")
        elif value:
            text = repr(value).replace("'", '"')
            lines.append(f"    {key} = {text},")
    return "\n".join([*lines, ")\n"])


def file_rule(path: pathlib.Path, modules: dict[str, pathlib.Path]) -> tuple[str, str]:
    """Returns the kind and the text of the target of the file `path`."""
    name, deps = target_name(path), dependencies(path, modules)
    in_tests = path.relative_to(ROOT).parts[0] == "tests"
    if in_tests and name.startswith("test_"):
        # pytest runs a test with each conftest.py from the top down to it.
        conftests = (folder / "conftest.py" for folder in path.parents)
        deps |= {label(c, path.parent) for c in conftests if c in modules.values()}
        kind = "py_test"
        extra = {
            "srcs": [path.name, "//tools:run_pytest.py"],
            "args": [f"$(location {path.name})"],
            "main": "//tools:run_pytest.py",
        }
        deps.add(f"//{THIRD_PARTY}:pytest")
    else:
        runnable = name == "main" or '__name__ == "__main__"' in path.read_text()
        kind = "py_binary" if runnable else "py_library"
        extra = {"testonly": in_tests, "srcs": [path.name]}
        if name == "main":
            extra["main"] = path.name
        read = [path.with_suffix(suffix) for suffix in (".css", ".js")]
        extra["data"] = [file.name for file in read if file.exists()]
    # The order of buildifier: local labels first.
    ordered = sorted(deps, key=lambda dep: (dep.startswith("//"), dep.split(":")))
    return kind, rule(kind, name=name, **extra, deps=ordered)


def build_text(package: pathlib.Path, modules: dict[str, pathlib.Path]) -> str:
    """Returns the BUILD file of the folder `package`."""
    paths = [path for path in modules.values() if path.parent == package]
    targets = sorted((target_name(path), *file_rule(path, modules)) for path in paths)
    kinds = sorted({kind for _, kind, _ in targets})
    kinds_text = ", ".join(f'"{kind}"' for kind in kinds)
    # What a user imports is public, the rest is for this repository.
    public = package == ROOT / "tf_seqattn"
    visibility = "//visibility:public" if public else "//:__subpackages__"
    blocks = [
        f'load("{RULES}", {kinds_text})\n',
        rule("package", default_visibility=[visibility]),
        'licenses(["notice"])\n',
    ]
    if package == ROOT / "tools":
        blocks.append('exports_files(["run_pytest.py"])\n')
    return "\n".join([HEADER, *blocks, *(text for _, _, text in targets)])


def third_party_text(names: set[str]) -> str:
    """Returns the BUILD file that stands for the packages pip installs."""
    libraries = [
        rule(
            "py_library",
            name=name,
            tags=["pip:" + PIP_NAMES.get(name, name.replace("_", "-"))],
        )
        for name in sorted(names)
    ]
    head = [
        HEADER
        + "#\n"
        + "# One name for each package that pip installs, as setup.cfg asks. With\n"
        + "# rules_python's pip_parse, give each of them a dep on its target there.\n",
        f'load("{RULES}", "py_library")\n',
        rule("package", default_visibility=["//visibility:public"]),
    ]
    return "\n".join([*head, *libraries])


def main() -> None:
    """Writes every BUILD file below the folders of Python code."""
    paths = sorted(p for folder in FOLDERS for p in ROOT.glob(f"{folder}/**/*.py"))
    modules = {module_name(path): path for path in paths}
    prefix = f"//{THIRD_PARTY}:"
    third_party = {"pytest"}
    for package in sorted({path.parent for path in paths}):
        (package / "BUILD").write_text(build_text(package, modules))
    for path in paths:
        deps = dependencies(path, modules)
        third_party |= {d.removeprefix(prefix) for d in deps if d.startswith(prefix)}
    (ROOT / THIRD_PARTY / "BUILD").write_text(third_party_text(third_party))


if __name__ == "__main__":
    main()
