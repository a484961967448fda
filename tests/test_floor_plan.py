"""The order of the packages, held by the code's own imports."""

from __future__ import annotations

from floor_plan import FLOORS, REPO, circle, floor_of, imports, in_document, package_of


def test_a_package_imports_only_from_floors_below_its_own():
    upward = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if package_of(module) != package_of(other) and floor_of(package_of(other)) >= floor_of(package_of(module))
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle():
    assert not circle(imports())
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_every_package_has_its_floor_and_opens_with_what_lives_there():
    packages = {path.parent for path in (REPO / "loop_rl").glob("*/__init__.py")}
    assert {package.name for package in packages} == {package for floor in FLOORS for package in floor}
    assert all("Imports" in (package / "__init__.py").read_text() for package in packages)


def test_the_drawing_in_the_documentation_is_the_code_s():
    text = (REPO / "docs" / "design.md").read_text()
    assert in_document(text) == text, "run `make docs`"
