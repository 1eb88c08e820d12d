"""Recipes: what is read, what is refused and by which name, what a child has of its parent, what the digests cover."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastackd.errors import InvalidRequest, NotFound
from pandastackd.template.recipe import Catalog, Recipe, load_catalog

SHIPPED = Path(__file__).parents[3] / "templates"

BASE = """
label = "Base"
aliases = ["node"]
packages = ["git", "curl"]
warm = ["git --version"]
memory_mib = 256
[env]
LANG = "C.UTF-8"
[[files]]
source = "greeting"
target = "/etc/greeting"
[start]
command = "sleep inf"
"""
CHILD = """
parent = "base"
pip = ["numpy==2.1", "requests[socks]>=2"]
warm = ["python3 -c 0", "git --version"]
commands = ["echo hi > /srv/hi"]
disk_mib = 8192
[env]
A = "1"
"""


def write(folder: Path, **recipes: str) -> Path:
    for name, content in recipes.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "template.toml").write_text(content)
        (folder / name / "greeting").write_text("hello")
    return folder


def load(folder: Path, **recipes: str) -> Catalog:
    return load_catalog(write(folder, **recipes))


def test_a_child_has_all_of_its_parent_and_its_own_on_top(tmp_path: Path) -> None:
    child = load(tmp_path, base=BASE, child=CHILD).find("child")
    assert [layer.name for layer in child.layers] == ["base", "child"]
    assert child.packages == ("git", "curl")
    assert child.env == {"LANG": "C.UTF-8", "A": "1"}
    assert child.warm == ("git --version", "python3 -c 0")
    assert child.start
    assert child.start.command == "sleep inf"
    assert (child.vcpus, child.memory_mib, child.disk_mib) == (1, 256, 8192)
    assert not child.starts_afresh


def test_a_child_with_packages_starts_afresh(tmp_path: Path) -> None:
    child = load(tmp_path, base=BASE, child='parent = "base"\npackages = ["jq"]').find("child")
    assert child.starts_afresh
    assert child.packages == ("git", "curl", "jq")


def test_names_and_aliases_find_a_recipe(tmp_path: Path) -> None:
    catalog = load(tmp_path, base=BASE, child=CHILD)
    assert catalog.find("node") is catalog.find("base")
    with pytest.raises(NotFound, match="no template is called nothing; there is: base, child"):
        catalog.find("nothing")


def test_parents_come_before_their_children(tmp_path: Path) -> None:
    catalog = load(tmp_path, zebra=BASE, ape='parent = "zebra"')
    assert [recipe.name for recipe in catalog.recipes] == ["zebra", "ape"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("flavour = 1", "flavour: unknown key"),
        ("packages = ['--include=evil']", "packages.0"),
        ("packages = 'git'", "packages"),
        ("pip = ['evil @ https://example.org/evil.whl']", "pip.0"),
        ("pip = ['--index-url=https://example.org']", "pip.0"),
        ("vcpus = 0", "vcpus"),
        ("memory_mib = '512'", "memory_mib"),
        ("disk_mib = 1", "disk_mib"),
        ("[env]\n'A B' = 'x'", "env"),
        ("[start]\nuser = 'user'", "start.command"),
        ("[[files]]\nsource = '../greeting'\ntarget = '/etc/x'", "files.0.source"),
        ("[[files]]\nsource = '/etc/passwd'\ntarget = '/etc/x'", "files.0.source"),
        ("[[files]]\nsource = 'greeting'\ntarget = 'etc/x'", "files.0.target"),
        ("[[files]]\nsource = 'greeting'\ntarget = '/etc/../x'", "files.0.target"),
        ("[[files]]\nsource = 'greeting'\ntarget = '/etc/x'\nmode = '4777'", "files.0.mode"),
        ("parent = 'nobody'", "parent nobody does not exist"),
        ("parent = 'odd'", "its own ancestor"),
        ("aliases = ['base']", "alias base already names base"),
        ("parent = 'base'\nsuite = 'sid'", "suite is sid"),
        ("parent = 'base'\ndisk_mib = 512", "disk_mib is 512"),
        ("label = ", "no TOML"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, content: str, named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        load(tmp_path, base=BASE, odd=content)
    assert refused.value.message.startswith("template odd: ")
    assert named in refused.value.message
    assert refused.value.code == "invalid_template"


def test_a_file_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    recipe = load(tmp_path, base=BASE).find("base")
    (tmp_path / "base" / "greeting").unlink()
    (tmp_path / "base" / "greeting").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="greeting is no file inside the template's folder"):
        _ = recipe.rootfs_digest


def _digests(folder: Path, base: str = BASE, child: str = CHILD, greeting: str = "hello") -> tuple[str, str]:
    write(folder, base=base, child=child)
    (folder / "base" / "greeting").write_text(greeting)
    recipe: Recipe = load_catalog(folder).find("child")
    return recipe.rootfs_digest, recipe.digest


def test_digests_cover_what_matters_and_nothing_else(tmp_path: Path) -> None:
    disk, whole = _digests(tmp_path)
    assert _digests(tmp_path) == (disk, whole)
    renamed = BASE.replace("Base", "Basis").replace('"node"', '"nodejs"')
    assert _digests(tmp_path, base=renamed) == (disk, whole)
    for other in (
        _digests(tmp_path, greeting="goodbye"),
        _digests(tmp_path, base=BASE.replace("/etc/greeting", "/etc/welcome")),
        _digests(tmp_path, base=BASE.replace('"curl"', '"wget"')),
        _digests(tmp_path, child=CHILD.replace("numpy==2.1", "numpy==2.2")),
        _digests(tmp_path, child=CHILD.replace("echo hi", "echo ho")),
    ):
        assert disk != other[0]
        assert whole != other[1]
    for same_disk in (
        _digests(tmp_path, base=BASE.replace("sleep inf", "sleep 1")),
        _digests(tmp_path, base=BASE.replace("256", "512")),
        _digests(tmp_path, child=CHILD.replace("python3 -c 0", "python3 -c 1")),
    ):
        assert same_disk[0] == disk
        assert same_disk[1] != whole


def test_the_shipped_recipes_are_what_clients_ask_for() -> None:
    catalog = load_catalog(SHIPPED)
    for name in ("base", "ubuntu-24.04", "ubuntu-24.04-net", "node"):
        assert catalog.find(name).name == "base"
    interpreter = catalog.find("code-interpreter-v1")
    assert interpreter.name == "code-interpreter"
    assert interpreter.parent is catalog.find("base")
    assert interpreter.start
    assert interpreter.ready
    assert {requirement.partition("==")[0] for requirement in interpreter.written.pip} >= {
        *("numpy", "pandas", "matplotlib", "scipy", "pillow", "requests", "ipykernel"),
    }
    for recipe in catalog.recipes:
        assert len(recipe.digest) == 32


def test_the_code_interpreter_has_all_its_files() -> None:
    folder = Path(__file__).parents[3] / "templates"
    recipe = load_catalog(folder).find("code-interpreter")
    there = {
        path.relative_to(recipe.folder).as_posix()
        for path in (recipe.folder / "files").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {file.source for file in recipe.written.files} == there
    for file in recipe.written.files:
        assert file.target == file.source.replace("files/", "/opt/pandastack/")
