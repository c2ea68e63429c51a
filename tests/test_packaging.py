"""What is shipped, what an editable install exposes, what is committed, and the bounds of dependencies."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[str]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    # what is on its way into the next commit counts too
    command = [git, "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    uv = shutil.which("uv")
    command = [uv] if uv else [sys.executable, "-m", "uv"]
    out = tmp_path_factory.mktemp("wheel")
    copy = out / "source"  # the build backend writes beside what it builds
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    command += ["build", "--wheel", "--quiet", "--out-dir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode and re.search("No module named uv|fetch|resolve|connect|network|offline", done.stderr):
        pytest.skip(f"the build backend is not at hand: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_holds_the_library_alone(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"saev"}


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_library(wheel):
    ours = {name for name in tracked() if name.startswith("saev/") and "__pycache__" not in name}
    assert ours <= {*wheel.namelist()}
    assert any(name.endswith(".j2") for name in wheel.namelist()), "the report's templates"


@pytest.mark.slow
def test_the_wheel_has_its_licence_and_command(wheel):
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "saev = saev.cli:main" in wheel.read(entry).decode()
    (licence,) = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert wheel.read(licence).decode().startswith("MIT License")


IMPORT_ALL = """
import importlib, json, pkgutil, sys
wheel, root = sys.argv[1:]
sys.path = [wheel, *(entry for entry in sys.path if entry not in ("", root))]  # without the editable install
import saev
assert saev.__file__.startswith(wheel), saev.__file__
import saev.recipes
errors = {}
for module in pkgutil.walk_packages(saev.__path__, "saev."):
    try:
        importlib.import_module(module.name)
    except Exception as error:
        errors[module.name] = f"{type(error).__name__}: {error}"
print(json.dumps(errors))
"""


@pytest.mark.slow
def test_every_module_of_the_wheel_imports_without_the_clone(wheel, tmp_path):
    """Only recipes need the clone, and say so."""
    wheel.extractall(tmp_path / "wheel")
    command = [sys.executable, "-I", "-c", IMPORT_ALL, str(tmp_path / "wheel"), str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    needs_clone = {name for name, error in errors.items() if "needs the clone of the repository" in error}
    assert errors.keys() == needs_clone and all(name.startswith("saev.recipes.") for name in errors), errors
    assert "saev.recipes.train" in errors, "the clone is hidden"


# --- the editable install


def test_the_editable_install_exposes_the_packages_at_the_root(tmp_path):
    names = ["saev", "callbacks", "datamodules", "hydra_plugins.saev_sweeper"]
    script = f"from importlib.util import find_spec; print([find_spec(name).origin for name in {names}])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    origins = ast.literal_eval(done.stdout)
    assert [origin.split("/")[-2] for origin in origins] == [name.split(".")[-1] for name in names]
    assert (
        len(
            {
                origin.removesuffix(f"{name.replace('.', '/')}/__init__.py")
                for origin, name in zip(origins, names, strict=True)
            }
        )
        == 1
    )


# --- dependencies

REQUIRED = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
DEVELOPMENT = [Requirement(text) for group in PROJECT["dependency-groups"].values() for text in group]


@pytest.mark.parametrize("requirement", [*REQUIRED, *DEVELOPMENT], ids=str)
def test_a_dependency_has_a_lower_and_an_upper_bound(requirement):
    bounds = {specifier.operator: Version(specifier.version) for specifier in requirement.specifier}
    assert ">=" in bounds and "<" in bounds, f"{requirement}: give >= and <"
    assert bounds[">="] < bounds["<"]


@pytest.mark.parametrize("extra", ["demo", "explore"])
def test_uv_sync_brings_what_others_get_as_an_extra(extra):
    extras = PROJECT["project"]["optional-dependencies"][extra]
    assert PROJECT["dependency-groups"][extra] == extras
    assert extra in PROJECT["tool"]["uv"]["default-groups"]
    assert not {Requirement(text).name for text in extras} & {requirement.name for requirement in REQUIRED}


def test_one_faiss_on_every_platform():
    faiss = [requirement for requirement in REQUIRED if requirement.name.startswith("faiss")]
    platforms = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]
    for system, machine in platforms:
        chosen = [
            r for r in faiss if r.marker and r.marker.evaluate({"sys_platform": system, "platform_machine": machine})
        ]
        assert len(chosen) == 1, (system, machine)


def test_what_the_source_imports_is_a_dependency():
    from docs.architecture import imports

    modules = {
        "open_clip": "open_clip_torch",
        "PIL": "pillow",
        "hydra": "hydra-core",
        "sklearn": "scikit-learn",
        "faiss": "faiss-gpu",
        "yaml": "pyyaml",
    }
    ours = {"saev", "callbacks", "datamodules", "hydra_plugins", "train"}
    names = {i.target.split(".")[0] for i in imports()} - ours - sys.stdlib_module_names
    extras = [Requirement(text) for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    required = {r.name.lower().replace("_", "-") for r in [*REQUIRED, *extras]}
    missing = {name for name in names if modules.get(name, name).lower().replace("_", "-") not in required}
    assert not missing, f"add to pyproject.toml: {sorted(missing)}"


# --- what is committed


def test_no_lock_file_nor_generated_file_is_tracked():
    names = tracked()
    assert "uv.lock" not in names
    assert not [
        name for name in names if re.search(r"__pycache__|\.pyc$|^outputs/(?!\.gitkeep)|\.egg-info|^\.venv", name)
    ]


LEAKS = {
    "registry": re.compile(
        r"https?://[^\s/]+/(?:\w+/)*(?:simple|packages)/|index[-]url|extra[-]index|^\s*registry[ ]*= *\"", re.M
    ),
    "path": re.compile(r"(?<![\w.$}~)])/(?:home|Users|root|work|mnt|scratch)/[\w.-]+"),
}


def leaks(text: str) -> list[str]:
    return [f"{kind}: {found[0]}" for kind, pattern in LEAKS.items() if (found := pattern.search(text))]


def test_no_registry_host_and_no_machine_path_is_tracked():
    found = {}
    for name in tracked():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content and name != "tests/test_packaging.py" and (faults := leaks(content.decode())):
            found[name] = faults
    assert not found


def test_leaks_are_recognised():
    # put together here, so that this file itself holds none
    for parts in (
        ("https://pypi.corp.example/", "simple/x"),
        ("--index", "-url x"),
        ("/home", "/me/data"),
        ('open("/', 'mnt/x")'),
    ):
        assert leaks("".join(parts))
    for text in ("images.root=/data/imagenet", "https://keepachangelog.com/en/1.1.0/", "~/home/x", "${HOME}/mnt/x"):
        assert not leaks(text)
