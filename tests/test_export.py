"""One definition, many copies: what `course.py export` writes, and what it refuses."""

import ast
import itertools
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import course
from tests.support import ROOT
from tests.trees import code, copy_machinery, printed, text, write_chapter, write_notebook
from tools import definitions, export, headers, notebook_files

DOUBLE = code('def double(x):\n    """Twice x."""\n    return 2 * x', "export")


def exported(root):
    """Write every generated file; returns the texts by relative path."""
    texts = export.outputs(root)
    for path, content in texts.items():
        path.write_text(content, encoding="utf-8", newline="\n")
    return {path.relative_to(root).as_posix(): content for path, content in texts.items()}


def chapter_module(root, *cells, name="ch02"):
    """The generated chNN.py of one chapter of these cells."""
    write_chapter(root, name, *cells)
    return exported(root)[f"{name}/01_main-chapter-code/{name}.py"]


def run(source):
    """The names that a generated module defines when it is run."""
    names = {}
    exec(compile(source, "generated", "exec", dont_inherit=True), names)
    return names


def ruff_is_content(folder):
    config = f"--config={ROOT / 'pyproject.toml'}"
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", config, str(folder)], capture_output=True, encoding="utf-8"
    )
    assert found.returncode == 0, found.stdout
    return True


# --- chNN.py --------------------------------------------------------------------------------------------------------------------


def test_module_holds_the_exported_cells_with_docstrings_and_where_they_came_from(tmp_path):
    module = chapter_module(tmp_path, text("# Two"), code("import math"), DOUBLE, code("print(double(2))", outputs=printed("4")))
    assert "# ch02.ipynb, In [2]\ndef double(x):\n" in module
    assert "DO NOT EDIT" in module.split('"""')[1]
    assert "print" not in module and "math" not in module
    assert run(module)["double"](4) == 8 and run(module)["double"].__doc__ == "Twice x."


def test_module_of_the_first_chapter_that_exports_nothing_is_not_written(tmp_path):
    write_chapter(tmp_path, "ch02", code("print(1)"))
    assert not [path for path in export.outputs(tmp_path) if path.suffix == ".py"]


def test_only_imports_that_are_used_are_kept_wherever_they_stand(tmp_path):
    imports = code("import math, os\nimport numpy as np\nfrom collections import Counter as Tally, deque")
    body = 'def area(r: "Tally") -> float:\n    return math.pi * np.square(r)'
    module = chapter_module(tmp_path, imports, code(body, "export"), code("import re"), code("P = re.compile('a')", "export"))
    heads = [line for line in module.splitlines() if "import" in line]
    assert heads == ["import math", "import re", "from collections import Counter as Tally", "import numpy as np"]


SCOPES = {
    "a parameter elsewhere doesn't hide a global": ("def f(helper): return helper\ndef g(): return helper(1)", True),
    "a local elsewhere doesn't hide a global": ("def f():\n    helper = 1\n    return helper\ndef g(): return helper(1)", True),
    "a class attribute isn't seen by methods": ("class A:\n    helper: int = 1\n    def f(self): return helper(1)", True),
    "default argument": ("def f(x=helper): return x", True),
    "keyword-only default": ("def f(*, x=helper): return x", True),
    "decorator": ("@helper\ndef f(): return 1", True),
    "class decorator": ("@helper\nclass A: pass", True),
    "base class": ("class A(helper): pass", True),
    "metaclass keyword": ("class A(metaclass=helper): pass", True),
    "annotation": ("def f(x: helper) -> None: ...", True),
    "quoted annotation": ('def f(x: "list[helper]") -> None: ...', True),
    "return annotation": ("def f() -> helper: ...", True),
    "annotation of a local": ("def f():\n    x: helper = 1\n    return x", True),
    "dataclass field": ("class A:\n    x: helper", True),
    "dataclass default": ("class A:\n    x: int = helper", True),
    "nested function": ("def f():\n    def g(): return helper\n    return g", True),
    "lambda": ("f = lambda x: helper(x)", True),
    "comprehension": ("def f(xs): return [helper(x) for x in xs]", True),
    "f-string": ("def f(x): return f'{helper(x)}'", True),
    "constant": ("LIMIT = helper + 1", True),
    "global statement": ("def f():\n    global helper\n    return helper", True),
    "a parameter is local": ("def f(helper): return helper", False),
    "a local is local": ("def f():\n    helper = 1\n    return helper", False),
    "a closure is local": ("def f(helper):\n    def g(): return helper\n    return g", False),
    "a loop variable is local": ("def f():\n    return [helper for helper in (1, 2)]", False),
    "an attribute is no name": ("def f(x): return x.helper", False),
    "a keyword is no name": ("def f(g): return g(helper=1)", False),
    "an import inside is local": ("def f():\n    import helper\n    return helper", False),
    "an exception's name is local": ("def f():\n    try: pass\n    except ValueError as helper: return helper", False),
    "itself": ("def helper(n): return helper(n - 1)", False),
    "a match capture is local": ("def f(x):\n    match x:\n        case [helper]: return helper", False),
    "a walrus is local": ("def f(x):\n    if helper := x: return helper", False),
}


@pytest.mark.parametrize("case", SCOPES)
def test_names_are_taken_from_outside_by_pythons_own_scopes(case):
    source, outside = SCOPES[case]
    assert ("helper" in definitions.used_names(source, "cell")) is outside


@given(
    st.permutations(["def f(a): return a", "def g(): return a", "def h(b=a): return b", "a_ = [a for a in ()]", "class C: a = 1"])
)
def test_scopes_do_not_depend_on_the_order_of_definitions(parts):
    assert definitions.used_names("\n".join(parts), "cell") == {"a"}


def test_a_dataclass_with_fields_of_another_export_comes_whole_and_runs(tmp_path):
    config = (
        '@dataclass(frozen=True)\nclass Config:\n    width: int = WIDTH\n    note: "Mode" = field(default_factory=lambda: Mode())'
    )
    cells = [
        code("from dataclasses import dataclass, field"),
        code("WIDTH: int = 3", "export"),
        code("class Mode:\n    pass", "export"),
    ]
    assert run(chapter_module(tmp_path, *cells, code(config, "export")))["Config"]().width == 3


def test_async_functions_and_several_names_in_one_cell(tmp_path):
    module = chapter_module(tmp_path, code("A = B = 1\n\n\nasync def wait():\n    return A", "export"))
    assert {"A", "B", "wait"} <= set(run(module))


def test_trailing_blanks_of_a_cell_do_not_travel(tmp_path):
    assert " \n" not in chapter_module(tmp_path, code("def f():   \n    return 1  \n\n", "export"))


# --- merged imports -------------------------------------------------------------------------------------------------------------

MODULES = [
    "torch",
    "torch.nn",
    "torch.nn.functional",
    "numpy",
    "os",
    "os.path",
    "collections",
    "data.tales",
    "Zope",
    "conv2d",
    "conv10d",
]
MEMBERS = ["Tensor", "functional", "nn", "MAX", "B", "a1", "a10", "a2", "Conv2d", "Conv10d", "_private", "BPE", "Base", "Éa", "x"]
IMPORTS = st.one_of(
    st.builds(
        lambda m, a: f"import {m}" + (f" as {a}" if a else ""), st.sampled_from(MODULES), st.sampled_from(["", "u1", "U2", "w"])
    ),
    st.builds(
        lambda m, n, a: f"from {m} import {n}" + (f" as {a}" if a else ""),
        st.sampled_from(MODULES),
        st.sampled_from(MEMBERS),
        st.sampled_from(["", "", "", "q1", "Q2", "Z_"]),
    ),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(statements=st.lists(IMPORTS, min_size=1, max_size=14, unique=True), constant=st.booleans())
def test_merged_imports_are_as_ruff_wants_them(tmp_path_factory, statements, constant):
    root = tmp_path_factory.mktemp("imports")
    bound = {}
    for statement in statements:  # one meaning a name
        for name, found in export.import_lines(ast.parse(statement)).items():
            bound.setdefault(name, found)
    cells = [code("\n".join(sorted(s for found in bound.values() for s in found)))]
    names = ", ".join(sorted(bound))
    cells.append(code(f"USED = [{names}]" if constant else f"def f():\n    return [{names}]", "export"))
    chapter_module(root, *cells)
    (root / "ch02" / "01_main-chapter-code" / "ch02.ipynb").unlink()  # only the module is ruff's business here
    assert ruff_is_content(root)


def test_a_long_import_is_wrapped_as_ruff_wants_it(tmp_path):
    names = [f"a_rather_long_name_{i}" for i in range(8)]
    module = chapter_module(
        tmp_path, code(f"from os import {', '.join(names)}"), code("X = [\n    " + ",\n    ".join(names) + "\n]", "export")
    )
    assert "from os import (\n    a_rather_long_name_0,\n" in module
    assert ruff_is_content(tmp_path / "ch02" / "01_main-chapter-code" / "ch02.py")


def test_two_submodules_of_one_package_are_both_imported(tmp_path):
    imports = code("import os.path\nimport os\nimport xml.dom\nimport xml.sax")
    module = chapter_module(tmp_path, imports, code("def f():\n    return os.path, xml.dom, xml.sax", "export"))
    assert all(line in module.splitlines() for line in ("import os", "import os.path", "import xml.dom", "import xml.sax"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from math import sqrt", "from cmath import sqrt"),
        ("import math as m", "import cmath as m"),
        ("import sqrt", "from math import sqrt"),
        ("from math import log as f, sqrt", "from math import sqrt as log, log as sqrt"),
    ],
)
def test_a_name_that_means_two_imports_is_an_error(tmp_path, first, second):
    name = list(export.import_lines(ast.parse(first)))[-1]
    write_chapter(tmp_path, "ch02", code(first), code(f"def f():\n    return {name}", "export"), code(second))
    with pytest.raises(export.ExportError, match=rf"{name} means two things"):
        export.outputs(tmp_path)


def test_a_name_that_is_ambiguous_but_unused_is_none_of_our_business(tmp_path):
    assert "sqrt" not in chapter_module(tmp_path, code("from math import sqrt"), DOUBLE, code("from cmath import sqrt"))


# --- previous_chapters.py -------------------------------------------------------------------------------------------------------


def three_chapters(root):
    write_chapter(
        root,
        "ch02",
        code("import math\nfrom os import sep"),
        code("BASE = 2", "export"),
        code("def unused():\n    return sep", "export"),
        code("def power(x):\n    return BASE ** x", "export"),
        code("def root(x):\n    return math.sqrt(x)", "export"),
    )
    write_chapter(
        root,
        "ch03",
        code("from previous_chapters import power"),
        code("def later(x):\n    return power(x) + 1", "export"),
        code("def alone():\n    return 0", "export"),
    )
    write_chapter(root, "ch04", code("from previous_chapters import later as newer"), code("newer(3)", count=1))


def test_previous_chapters_holds_what_is_imported_with_what_that_needs_in_teaching_order(tmp_path):
    three_chapters(tmp_path)
    texts = exported(tmp_path)
    module = texts["ch04/01_main-chapter-code/previous_chapters.py"]
    names = [node.name for node in ast.parse(module).body if isinstance(node, ast.FunctionDef)]
    assert names == ["power", "later"] and "BASE = 2" in module
    assert "import" not in module.split('"""')[2] and "unused" not in module and "alone" not in module
    assert [line for line in module.splitlines() if line.startswith("# ch")] == [
        "# ch02.ipynb, In [2]",
        "# ch02.ipynb, In [4]",
        "# ch03.ipynb, In [2]",
    ]
    assert run(module)["later"](3) == 9
    assert "from previous_chapters import power" in texts["ch03/01_main-chapter-code/ch03.py"]
    assert "ch02/01_main-chapter-code/previous_chapters.py" not in texts
    assert ruff_is_content(tmp_path)


def test_imports_of_bonus_notebooks_and_scripts_count_too(tmp_path):
    three_chapters(tmp_path)
    write_notebook(tmp_path / "ch04" / "02_bonus_more" / "more.ipynb", code("from previous_chapters import alone"))
    (tmp_path / "ch04" / "01_main-chapter-code" / "tool.py").write_text(
        "def f():\n    from previous_chapters import root\n    root(2)\n"
    )
    module = exported(tmp_path)["ch04/01_main-chapter-code/previous_chapters.py"]
    assert {"later", "alone", "root"} <= set(run(module)) and "unused" not in module


def test_a_stale_generated_module_is_not_read_as_a_source(tmp_path):
    three_chapters(tmp_path)
    exported(tmp_path)
    write_chapter(tmp_path, "ch02", code("def power_of_two(x):\n    return 2 ** x", "export"))
    cells = [code("from previous_chapters import power_of_two"), code("def later(x):\n    return power_of_two(x) + 1", "export")]
    write_chapter(tmp_path, "ch03", *cells)  # ch03.py on disk still imports `power`
    exported(tmp_path)
    assert not export.differences(tmp_path)


def test_a_readers_exercise_cells_play_no_part(tmp_path):
    three_chapters(tmp_path)
    before = exported(tmp_path)["ch04/01_main-chapter-code/previous_chapters.py"]
    attempt = code("from previous_chapters import nonsense\nimport this is not python", "exercise")
    write_chapter(tmp_path, "ch04", code("from previous_chapters import later as newer"), attempt)
    assert exported(tmp_path)["ch04/01_main-chapter-code/previous_chapters.py"] == before


def test_a_library_name_that_another_chapter_exports_stays_the_librarys(tmp_path):
    write_chapter(tmp_path, "ch02", code("from math import sqrt"), code("def f(x):\n    return sqrt(x)", "export"))
    write_chapter(tmp_path, "ch03", code("def sqrt(x):\n    return 'ours'", "export"))
    write_chapter(tmp_path, "ch04", code("from previous_chapters import f"))
    module = exported(tmp_path)["ch04/01_main-chapter-code/previous_chapters.py"]
    assert run(module)["f"](4) == 2.0 and "return 'ours'" not in module
    write_chapter(tmp_path, "ch04", code("from previous_chapters import f, sqrt"))
    with pytest.raises(export.ExportError, match="sqrt means two things"):
        export.outputs(tmp_path)


# --- what is refused ------------------------------------------------------------------------------------------------------------

REFUSED = {
    "a tag on a cell that printed": ([code("def f(): ...", "export", outputs=printed("1"))], "In .1.: an exported cell prints"),
    "a tag on a cell that would print": ([code("x = print(1)", "export")], "may not print"),
    "a tag on a cell that works": ([code("import os"), code("def f(): ...\n\nf()", "export")], r"In \[2\].*line 3 is Expr"),
    "a tag on imports": ([code("import os", "export")], "line 1 is Import"),
    "two exports of one name": ([DOUBLE, DOUBLE], r"In \[2\]: double is already exported by ch02.ipynb, In \[1\]"),
    "a name that is neither imported nor exported": ([code("def f(): return secret", "export")], "uses secret, which"),
    "a name defined in an untagged cell": ([code("k = 1"), code("def f(): return k", "export")], "uses k, which"),
    "magics": ([code("def f():\n    !ls", "export")], "plain Python"),
    "a syntax error": ([code("def f(:", "export")], "ch02.ipynb, In .1.: line 1 is not Python"),
    "a broken quoted annotation": ([code('def f(x: "an int"): ...', "export")], "is not Python"),
    "an unknown earlier name": ([code("from previous_chapters import doubles"), DOUBLE], "doubles is not exported by any chapter"),
    "an import of the whole module": ([code("import previous_chapters"), DOUBLE], "write `from previous_chapters import NAME`"),
    "an alias that is exported on": (
        [code("from previous_chapters import g as h"), code("def f(): return h()", "export")],
        "h is `from previous_chapters import g as h`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_with_its_place(tmp_path, case):
    cells, message = REFUSED[case]
    write_chapter(tmp_path, "ch02", *cells)
    with pytest.raises(export.ExportError, match=message):
        export.outputs(tmp_path)


def test_two_chapters_may_not_export_one_name(tmp_path):
    write_chapter(tmp_path, "ch02", DOUBLE)
    write_chapter(tmp_path, "ch03", code("1"), DOUBLE)
    with pytest.raises(export.ExportError, match=r"ch03.ipynb, In \[2\]: double is already exported by ch02.ipynb, In \[1\]"):
        export.outputs(tmp_path)


def test_a_chapter_cannot_import_what_is_taught_later(tmp_path):
    write_chapter(tmp_path, "ch02", code("from previous_chapters import double"))
    write_chapter(tmp_path, "ch03", DOUBLE)
    with pytest.raises(
        export.ExportError, match="ch02: previous_chapters: double is not exported by any chapter that comes before"
    ):
        export.outputs(tmp_path)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    write_chapter(tmp_path, "ch02", DOUBLE)
    write_chapter(tmp_path, "ch03", code("from previous_chapters import doubles"))
    with pytest.raises(export.ExportError, match=r"did you mean double\?"):
        export.outputs(tmp_path)


DAMAGED = [
    '{"cells": [',
    "[]",
    "null",
    '{"metadata": {}}',
    '{"cells": [1], "metadata": {}}',
    '{"cells": [{"source": "x"}], "metadata": {}}',
]
DAMAGED += ['<<<<<<< HEAD\n{"cells": []}', '{"cells": [{"cell_type": "code", "metadata": {}, "source": "x"}], "metadata": {}}']


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_notebook_is_named(tmp_path, damaged):
    path = write_chapter(tmp_path, "ch02", DOUBLE)
    path.write_text(damaged, encoding="utf-8")
    with pytest.raises(export.ExportError, match=r"ch02\.ipynb: not a notebook .*restore it with git"):
        export.outputs(tmp_path)


def test_a_notebook_that_is_not_utf8_is_named(tmp_path):
    write_chapter(tmp_path, "ch02", DOUBLE).write_bytes(b"\xff\xfe{}")
    with pytest.raises(export.ExportError, match="not a notebook"):
        export.outputs(tmp_path)


# --- summaries ------------------------------------------------------------------------------------------------------------------


def summary_tree(root):
    three_chapters(root)
    folder = root / "ch04" / "01_main-chapter-code"
    script = '"""Summary."""\n\nimport argparse\nimport math\n\n# <generated: later, root>\nstale\n# </generated>\n\n\n'
    (folder / "tool.py").write_text(script + "print(argparse, math, later(2), root(4.0))\n", encoding="utf-8")
    cells = [
        code("", "from:imports"),
        code("old", "from:BASE"),
        code("", "from:power"),
        code("", "from:root"),
        code("root(power(2))"),
    ]
    write_notebook(folder / "short.ipynb", text("# Short"), *cells)
    return folder


def test_a_scripts_region_gets_the_definitions_their_needs_and_only_the_imports_it_lacks(tmp_path):
    folder = summary_tree(tmp_path)
    script = exported(tmp_path)["ch04/01_main-chapter-code/tool.py"]
    assert "stale" not in script and script.count("import math") == 1 and "import argparse" in script
    assert [node.name for node in ast.parse(script).body if isinstance(node, ast.FunctionDef)] == ["power", "root", "later"]
    assert "# <generated: later, root>\n" in script and script.count("# </generated>") == 1
    done = subprocess.run([sys.executable, str(folder / "tool.py")], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" 5 2.0\n")
    assert ruff_is_content(folder / "tool.py")


@pytest.mark.parametrize("own", ["import argparse\nimport sys", "import torch", "from previous_chapters import x", ""])
def test_a_scripts_imports_and_the_regions_please_ruff_together(tmp_path, own):
    write_chapter(tmp_path, "ch02", code("import math\nimport torch"), code("def f():\n    return math, torch", "export"))
    used = ", ".join(export.import_lines(ast.parse(own)))
    script = f'"""S."""\n\n{own}\n\n# <generated: f>\n# </generated>\n\n\nprint(f(), {used})\n'.replace("\n\n\n\n# <", "\n\n# <")
    filled = export.fill_script(script, export.read_course(tmp_path), "s.py")
    (tmp_path / "s.py").write_text(filled, encoding="utf-8")
    assert ruff_is_content(tmp_path / "s.py") and filled.count("import torch") == 1
    assert export.fill_script(filled, export.read_course(tmp_path), "s.py") == filled


def test_a_second_region_does_not_repeat_the_first(tmp_path):
    three_chapters(tmp_path)
    script = "# <generated: power>\n# </generated>\n\n\n# <generated: later>\n# </generated>\n"
    filled = export.fill_script(script, export.read_course(tmp_path), "s.py")
    assert filled.count("def power") == filled.count("def later") == filled.count("BASE = 2") == 1
    assert export.fill_script(filled, export.read_course(tmp_path), "s.py") == filled


@pytest.mark.parametrize(
    "broken", ["# <generated: f>\n", "# <generated: f>\n    # </generated>\n", "# </generated>\n# <generated: f>\n"]
)
def test_a_region_without_its_end_is_an_error(tmp_path, broken):
    with pytest.raises(export.ExportError, match="needs a `# </generated>` line"):
        export.fill_script(broken, {}, "s.py")


def test_a_summary_notebooks_cells_are_filled(tmp_path):
    summary_tree(tmp_path)
    cells = json.loads(exported(tmp_path)["ch04/01_main-chapter-code/short.ipynb"])["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sources[1:4] == [
        "import math",
        "# ch02.ipynb, In [2]\nBASE = 2",
        "# ch02.ipynb, In [4]\ndef power(x):\n    return BASE ** x",
    ]


@pytest.mark.parametrize("where", ["script", "notebook"])
def test_a_summary_that_asks_for_an_unknown_name_is_an_error(tmp_path, where):
    folder = summary_tree(tmp_path)
    if where == "script":
        (folder / "tool.py").write_text("# <generated: latr>\n# </generated>\n", encoding="utf-8")
    else:
        write_notebook(folder / "short.ipynb", code("", "from:latr"))
    with pytest.raises(export.ExportError, match=r"(tool.py|short.ipynb): latr is not exported.*did you mean later\?"):
        export.outputs(tmp_path)


# --- stability and the command --------------------------------------------------------------------------------------------------


def test_export_twice_changes_no_byte_and_leaves_nothing_else(tmp_path):
    summary_tree(tmp_path)
    first = exported(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    assert exported(tmp_path) == first and sorted(tmp_path.rglob("*")) == files
    assert not export.differences(tmp_path)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(4)))
def test_outputs_do_not_depend_on_set_or_file_order(tmp_path_factory, order):
    root = tmp_path_factory.mktemp("order")
    names = ["alpha", "Beta", "gamma", "DELTA"]
    cells = [code("from math import cos, inf, sin, tan")]
    write_chapter(root, "ch02", *cells, *(code(f"def {n}():\n    return sin, cos, tan, inf", "export") for n in names))
    write_chapter(root, "ch03", code("from previous_chapters import " + ", ".join(names[i] for i in order)))
    module = exported(root)["ch03/01_main-chapter-code/previous_chapters.py"]
    assert "from math import cos, inf, sin, tan" in module
    assert [module.index(f"def {a}") < module.index(f"def {b}") for a, b in itertools.pairwise(names)] == [True] * 3


def isolated(root, *arguments):
    """`course.py` run by a Python that sees neither site-packages nor the environment."""
    command = [sys.executable, "-I", "-S", str(root / "course.py"), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=root.parent)


def test_export_and_check_need_only_the_standard_library(tmp_path):
    root = copy_machinery(tmp_path / "a folder with spaces")
    summary_tree(root)
    missing = isolated(root, "export", "--check")
    assert missing.returncode == 1 and "+def double" not in missing.stdout
    assert "ch04/01_main-chapter-code/previous_chapters.py (as exported)" in missing.stdout and "+def later(x):" in missing.stdout
    assert not (root / "ch02" / "01_main-chapter-code" / "ch02.py").exists()  # a check writes nothing
    assert isolated(root, "export").returncode == 0
    agreed = isolated(root, "export", "--check")
    assert agreed.returncode == 0 and "agrees" in agreed.stdout, agreed.stdout + agreed.stderr
    assert isolated(root, "export").stdout == ""
    assert not list(root.rglob("*.tmp"))


def test_a_changed_copy_fails_the_check_with_a_readable_diff(tmp_path):
    root = copy_machinery(tmp_path)
    summary_tree(root)
    isolated(root, "export")
    module = root / "ch03" / "01_main-chapter-code" / "previous_chapters.py"
    module.write_text(module.read_text(encoding="utf-8").replace("BASE ** x", "BASE * x"), encoding="utf-8")
    check = isolated(root, "export", "--check")
    assert check.returncode == 1
    assert "--- ch03/01_main-chapter-code/previous_chapters.py (as it is)" in check.stdout
    assert "-    return BASE * x\n+    return BASE ** x" in check.stdout
    assert "run `python course.py export`" in check.stdout


def test_a_notebook_as_another_editor_lays_it_out_is_no_difference(tmp_path):
    path = write_chapter(tmp_path, "ch02", text(f"# T\n{headers.START}\n{headers.END}"), code("", "setup"))
    exported(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=4), encoding="utf-8")
    assert not export.differences(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("Not measured yet", "Quick"), encoding="utf-8")
    assert len(export.differences(tmp_path)) == 1  # but an old header is


def test_an_error_is_one_sentence_without_a_traceback(tmp_path):
    root = copy_machinery(tmp_path)
    write_chapter(root, "ch02", DOUBLE, DOUBLE)
    refused = isolated(root, "export")
    assert refused.returncode == 1 and refused.stderr.startswith("export: ch02.ipynb, In [2]: double is already exported")
    assert refused.stderr.count("\n") == 1 and not list(root.rglob("ch02.py"))


def test_tools_that_need_nothing_installed_import_only_the_standard_library():
    own = {"course", "tools", "exercises", "images"}
    names = [
        "attempts",
        "checks",
        "colab",
        "contents",
        "definitions",
        "doctor",
        "environment",
        "exercise_list",
        "export",
        "figures",
        "headers",
        "lab",
        "merged_imports",
        "notebook_files",
        "vocabulary",
    ]
    for path in [ROOT / "course.py", ROOT / "exercises.py", *(ROOT / "tools" / f"{name}.py" for name in names)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None)]:
                top = (module or "sys").split(".")[0]
                assert top in sys.stdlib_module_names | own, f"{path.name} imports {top}"


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "kept.py"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(notebook_files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export.write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


# --- headers and setup cells ----------------------------------------------------------------------------------------------------


def test_headers_and_setup_cells_are_written_into_every_notebook(tmp_path):
    first = text(f"# Title\n\n*Promise.*\n\n{headers.START}\nold\n{headers.END}\n\nMore.")
    write_chapter(tmp_path, "ch02", first, code("whatever", "setup"))
    write_chapter(tmp_path, "ch03", first, code("", "setup"))
    folder = tmp_path / "ch02" / "01_main-chapter-code"
    for name in ("dataloader", "exercise-solutions"):
        write_notebook(folder / f"{name}.ipynb", first, code("", "setup"), metadata={"course": {"seconds": 7, "gigabytes": 0.4}})
    texts = exported(tmp_path)
    main, summary = (json.loads(texts[f"ch02/01_main-chapter-code/{name}.ipynb"]) for name in ("ch02", "dataloader"))
    top = "".join(main["cells"][0]["source"])
    assert top.startswith("# Title\n\n*Promise.*") and top.endswith("More.") and "old" not in top
    assert "[Summary: dataloader.ipynb](dataloader.ipynb) · [Solutions](exercise-solutions.ipynb)" in top
    assert "[Next: ch03](../../ch03/01_main-chapter-code/ch03.ipynb)" in top and "Not measured yet." in top
    assert "/blob/colab/ch02/01_main-chapter-code/ch02.ipynb" in top
    below = "".join(summary["cells"][0]["source"])
    assert "[Main notebook: ch02.ipynb](ch02.ipynb)" in below and "7 s, 0.4 GB of memory" in below
    setup = "".join(main["cells"][1]["source"])
    assert 'folder, clone = "ch02/01_main-chapter-code"' in setup and course.REPOSITORY in setup and "whatever" not in setup


def test_a_new_repository_address_reaches_every_badge_and_setup_cell(tmp_path, monkeypatch):
    cells = [text(f"# Title\n{headers.START}\n{headers.END}"), code("", "setup")]
    write_chapter(tmp_path, "ch02", *cells)
    write_notebook(tmp_path / "appendix-A" / "03_main-chapter-code" / "code-part1.ipynb", *cells)
    exported(tmp_path)
    assert not export.differences(tmp_path)
    old = course.REPOSITORY
    monkeypatch.setattr(course, "REPOSITORY", "https://github.com/someone/fork")
    assert len(export.differences(tmp_path)) == 2
    for name, content in exported(tmp_path).items():
        assert old not in content and "blob/colab" in content, name
        assert content.count("https://github.com/someone/fork") == 1
        assert content.count("https://colab.research.google.com/github/someone/fork/blob/colab/") == 1


def test_the_setup_cell_compiles_and_is_ten_lines_or_so():
    source = headers.SETUP.format(folder="ch02/01_main-chapter-code", address=course.REPOSITORY)
    compile(source, "setup", "exec")
    assert len([line for line in source.splitlines() if line.strip()]) <= 14
