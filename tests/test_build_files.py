"""The BUILD files agree with the Python files and with what they import.

A BUILD file is a sequence of calls with literal arguments, so `ast` reads it.
"""

import ast
import configparser
import graphlib
import importlib.metadata
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "docs", "tests", "tf_seqattn", "tools")
KINDS = ("py_binary", "py_library", "py_test")


def read_rules(build_file):
    """The calls of rules in a BUILD file: a dict of arguments, and `kind`, for each."""
    calls = [
        statement.value
        for statement in ast.parse(build_file.read_text()).body
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    ]
    return [
        {
            "kind": call.func.id,
            **{word.arg: ast.literal_eval(word.value) for word in call.keywords},
        }
        for call in calls
        if call.func.id in KINDS
    ]


def absolute(label, package):
    """`label`, found in the BUILD file of `package`, as //folder:name."""
    if label.startswith(":"):
        return f"//{package}{label}"
    if ":" in label:
        return label
    return f"{label}:{label.rpartition('/')[2]}"


def all_rules(root):
    """Every rule below `root` by its absolute label."""
    folders = [f for f in root.iterdir() if f.name in (*FOLDERS, "third_party")]
    rules = {}
    for build_file in [b for folder in folders for b in folder.rglob("BUILD")]:
        package = build_file.parent.relative_to(root).as_posix()
        for rule in read_rules(build_file):
            label = f"//{package}:{rule['name']}"
            assert label not in rules, f"{label} stands twice"
            deps = [absolute(dep, package) for dep in rule.get("deps", [])]
            rules[label] = {**rule, "package": package, "deps": deps}
    return rules


def python_files(root):
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def targets_of(path, root, rules):
    """Labels of the rules whose sources have the file `path`."""
    package = path.parent.relative_to(root).as_posix()
    return [
        label
        for label, rule in rules.items()
        if rule["package"] == package and path.name in rule["srcs"]
    ]


def for_type_checkers(tree):
    """The import statements of `tree` that never run."""
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If)]
    guards = [g for g in guards if ast.unparse(g.test).endswith("TYPE_CHECKING")]
    return {id(node) for guard in guards for node in ast.walk(guard)}


def imports(path, root):
    """Dotted names, most specific first, for each thing that `path` imports."""
    tree = ast.parse(path.read_text())
    skipped = for_type_checkers(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ([alias.name] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.parents[node.level - 1].relative_to(root)
                base = ".".join([*folder.parts, *([base] if base else [])])
            yield from ([f"{base}.{alias.name}", base] for alias in node.names)
        if isinstance(node, ast.Call):
            text = ast.unparse(node)
            if named := re.match(
                r"importlib\.(?:import_module|util\.find_spec)\('([\w.]+)'", text
            ):
                yield [named[1]]


def expected_deps(path, root, rules):
    """Absolute labels of what `path` imports, and a list of what was not found."""
    deps, missing = set(), []
    for names in imports(path, root):
        top = names[-1].split(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if not (root / top).is_dir():
            deps.add(f"//third_party/py:{top}")
            continue
        places = [root.joinpath(*name.split(".")) for name in names]
        files = [f for p in places for f in (p.with_suffix(".py"), p / "__init__.py")]
        file = next((f for f in files if f.is_file()), None)
        labels = targets_of(file, root, rules) if file else []
        if labels:
            deps.add(labels[0])
        else:
            missing.append(f"{path.relative_to(root)}: no target has {names[0]}")
    if path.name.startswith("test_"):
        deps.add("//third_party/py:pytest")
        for folder in path.parents:
            if (folder / "conftest.py").is_file() and folder.is_relative_to(root):
                deps.update(targets_of(folder / "conftest.py", root, rules))
    return deps - set(targets_of(path, root, rules)), missing


def problems(root):
    """What is wrong with the BUILD files below `root`, a line for each."""
    rules = all_rules(root)
    found = []
    for path in python_files(root):
        name = path.relative_to(root).as_posix()
        labels = targets_of(path, root, rules)
        if len(labels) != 1:
            found.append(f"{name}: one target expected, found {labels}")
            continue
        rule = rules[labels[0]]
        is_test = name.startswith("tests/") and path.name.startswith("test_")
        if is_test != (rule["kind"] == "py_test"):
            found.append(f"{name}: {labels[0]} is a {rule['kind']}")
        expected, missing = expected_deps(path, root, rules)
        found += missing
        found += [f"{name}: missing dep {dep}" for dep in expected - {*rule["deps"]}]
        found += [f"{name}: extra dep {dep}" for dep in {*rule["deps"]} - expected]
    for label, rule in rules.items():
        for source in rule.get("srcs", []):
            if ":" not in source and not (root / rule["package"] / source).is_file():
                found.append(f"{label}: no file {source}")
        absent = [dep for dep in rule["deps"] if dep not in rules]
        found += [f"{label}: no target {dep}" for dep in absent]
    try:
        graphlib.TopologicalSorter({k: r["deps"] for k, r in rules.items()}).prepare()
    except graphlib.CycleError as error:
        found.append(f"the imports go in a circle: {' <- '.join(error.args[1])}")
    used = {dep for rule in rules.values() for dep in rule["deps"]}
    third_party = {label for label in rules if label.startswith("//third_party/")}
    found += [f"{label}: nothing depends on it" for label in third_party - used]
    return found


def test_build_files_agree_with_the_imports():
    remedy = "run `make build-files`"
    assert not problems(ROOT), f"{remedy}:\n" + "\n".join(problems(ROOT))


def test_pip_packages_are_declared_in_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    requirements = setup["options"]["install_requires"]
    requirements += "".join(setup["options.extras_require"].values())
    normal = requirements.lower().replace("_", "-")
    declared = set(re.findall(r"^[a-z0-9-]+", normal, re.MULTILINE))
    distributions = importlib.metadata.packages_distributions()
    for rule in read_rules(ROOT / "third_party/py/BUILD"):
        [tag] = rule["tags"]
        pip_name = tag.removeprefix("pip:")
        assert pip_name in declared, f"setup.cfg must name {pip_name}"
        if rule["name"] in distributions:
            names = [n.lower().replace("_", "-") for n in distributions[rule["name"]]]
            assert pip_name in names


LIBRARY = """
py_library(name = "tf_seqattn", srcs = ["__init__.py"], deps = [":blocks"])
py_library(
    name = "blocks",
    srcs = ["blocks.py"],
    deps = ["//third_party/py:numpy"],
)
"""
TEST = """
py_test(
    name = "test_blocks",
    srcs = ["test_blocks.py"],
    deps = ["//tf_seqattn:blocks", "//third_party/py:pytest"],
)
"""


@pytest.fixture
def small_project(tmp_path):
    """A project of three Python files whose BUILD files are right."""
    files = {
        "tf_seqattn/__init__.py": "from tf_seqattn.blocks import grid",
        "tf_seqattn/blocks.py": "import math\nimport numpy as np",
        "tf_seqattn/BUILD": LIBRARY,
        "tests/test_blocks.py": "from tf_seqattn import blocks",
        "tests/BUILD": TEST,
        "third_party/py/BUILD": """
py_library(name = "numpy")
py_library(name = "pytest")
""",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_right_build_files_have_no_problems(small_project):
    assert problems(small_project) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("tf_seqattn/BUILD", '":blocks"', "", "missing dep //tf_seqattn:blocks"),
        ("tf_seqattn/blocks.py", "import numpy as np", "", "extra dep"),
        ("tf_seqattn/blocks.py", "import math", "import scipy", "missing dep"),
        ("tf_seqattn/BUILD", 'py:numpy"', 'py:numpy", ":tf_seqattn"', "in a circle"),
        ("tf_seqattn/BUILD", '["blocks.py"]', "[]", "one target expected"),
        ("tf_seqattn/BUILD", '["blocks.py"]', '["blocks.py", "x.py"]', "no file x.py"),
        ("tests/BUILD", "py_test", "py_library", "is a py_library"),
        ("tests/BUILD", TEST, "", "one target expected"),
        ("third_party/py/BUILD", 'py_library(name = "numpy")', "", "no target"),
        ("third_party/py/BUILD", '"numpy"', '"a")\npy_library(name="numpy"', "nothing"),
    ],
)
def test_a_fault_is_found(small_project, file, old, new, message):
    text = (small_project / file).read_text()
    assert old in text
    (small_project / file).write_text(text.replace(old, new))
    assert any(message in problem for problem in problems(small_project))


def test_a_new_file_without_a_target_is_found(small_project):
    (small_project / "tf_seqattn" / "new.py").touch()
    assert problems(small_project) == [
        "tf_seqattn/new.py: one target expected, found []"
    ]


def test_an_import_for_type_checkers_is_no_dep(small_project):
    with (small_project / "tf_seqattn/blocks.py").open("a") as file:
        file.write("\nif typing.TYPE_CHECKING:\n    import tf_seqattn")
    assert problems(small_project) == []
